"""COST.md: what it counts is the model's, what it computes follows, and the page is up to date."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.cost import (
    COST_MD,
    epochs,
    expected,
    flops_per_image,
    gpu_hours,
    held,
    limits,
    load_cost,
    page,
)
from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE

PRETRAINING = load_cost()["pretraining"]
FINE_TUNING = load_cost()["fine_tuning"]


def model_and_views(batch, device="cpu"):
    """CLoVE, 2 x 224 px and 6 x 96 px of ``batch`` images, and boxes."""
    with torch.device(device):
        model = CLoVE(build_encoder()).to(memory_format=torch.channels_last).train()
        crops = torch.ones(2, batch, 3, 224, 224), torch.ones(6, batch, 3, 96, 96)
        return model, (*crops, torch.tensor([0.1, 0.1, 0.8, 0.9]).repeat(8, batch, 1))


def flops(forward, backward=True):
    """Of a function that returns what to differentiate, and the tensor itself, detached."""
    with FlopCounterMode(display=False) as counter:
        output = forward()
        both = {"forward": counter.get_total_flops(), "backward": 0}
        if backward:
            output.sum().backward()
            both["backward"] = counter.get_total_flops() - both["forward"]
    return both, output.detach().requires_grad_()


def test_the_flops_of_every_part_are_the_models():
    model, (global_crops, local_crops, boxes) = model_and_views(1, "meta")

    def student(crops):
        return model.contextualize(model.student(crops.flatten(0, 1)))

    parts = PRETRAINING["flops_per_image"]
    counted = {}
    counted["student_globals"], global_maps = flops(lambda: student(global_crops))
    counted["student_locals"], local_maps = flops(lambda: student(local_crops))
    counted["teacher_globals"], targets = flops(
        lambda: model.teacher(global_crops.flatten(0, 1)).detach(), backward=False
    )
    maps = global_maps, local_maps, targets.detach()
    counted["loss"], _ = flops(lambda: model.multicrop_loss(*maps, boxes)[0])
    assert counted.keys() == parts.keys()
    for name, part in parts.items():
        assert part == pytest.approx(counted[name], rel=0.01), name


def saved_bytes(model, views, precision="bf16"):
    """What the backward pass needs beside the model's own tensors; and the loss."""
    own = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage()._cdata] = tensor  # kept, so that no address comes twice
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = model(*views, 0.99)["loss"]
    others = (tensor for address, tensor in saved.items() if address not in own)
    return sum(tensor.untyped_storage().nbytes() for tensor in others), loss


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_steps_flops_and_memory_are_the_models(precision):
    model, views = model_and_views(1)
    with FlopCounterMode(display=False) as counter:
        of_one, loss = saved_bytes(model, views, precision)
        loss.backward()
    assert flops_per_image(PRETRAINING) == pytest.approx(counter.get_total_flops(), rel=0.01)

    def of(tensors):
        return sum(tensor.nbytes for tensor in tensors)

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    teacher = of(model.teacher.state_dict().values())
    of_two, _ = saved_bytes(*model_and_views(2), precision)
    counted = {
        "student": of(model.state_dict().values()) - teacher,
        "gradients": of(parameter.grad for parameter in trained),
        "momentum": of(trained),
        "teacher": teacher,
    }
    fixed, per_image = PRETRAINING["memory_bytes"].values()
    assert {name: fixed[name] for name in counted} == pytest.approx(counted, rel=0.02)
    weights = 2 * of_one - of_two
    assert fixed["weights"][precision] == pytest.approx(weights, rel=0.02, abs=1e6)
    assert per_image["saved_for_backward"][precision] == pytest.approx(of_two - of_one, rel=0.02)
    width = {"bf16": 2, "fp32": 4}[precision]
    assert per_image["views"][precision] == width * sum(view.numel() for view in views[:2])


def test_the_size_of_a_backbone_is_that_of_a_torchvision_resnet():
    state = torchvision.models.resnet50().state_dict()
    names = [name for name in state if not name.startswith("fc.")]
    assert FINE_TUNING["backbone_bytes"] == sum(state[name].nbytes for name in names)


@pytest.mark.slow
def test_the_checkpoints_of_all_tasks_are_their_models():
    from detectron2.modeling import build_model

    from transfer.config import resolve
    from transfer.tasks import TASKS

    assert list(FINE_TUNING["tasks"]) == list(TASKS)
    for name, task in TASKS.items():
        cfg = resolve(task.config, overrides=["MODEL.DEVICE", "cpu"])
        model = build_model(cfg)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        size = sum(tensor.nbytes for tensor in (*model.state_dict().values(), *trained))
        assert FINE_TUNING["tasks"][name]["checkpoint_bytes"] == size, name


def test_rates_and_hours_follow():
    pretraining = {
        "flops_per_image": {"all": {"forward": 4e10, "backward": 6e10}},
        "traffic_gb": {"eager": {"bf16": 512.0}, "compiled": {"bf16": 128.0}},
    }
    gpu = {"bf16_tflops": 100, "gb_per_second": 1000}
    found = limits(gpu, pretraining)
    assert found == pytest.approx({"compute": 1000, "eager": 500, "compiled": 2000})
    cost = {"pretraining": pretraining, "share_of_limit": 0.5}
    assert expected(gpu, cost) == pytest.approx({"eager": 250, "compiled": 500})
    assert gpu_hours(7_200_000, per_second=1000) == pytest.approx(2)
    memory = {"fixed": {"a": 5, "b": {"bf16": 1, "fp32": 2}}, "per_image": {"c": {"bf16": 3}}}
    assert held(memory, 10, "bf16") == 36


def test_recipes_say_their_epochs():
    assert [epochs(recipe) for recipe in PRETRAINING["recipes"]] == [50, 100, 200, 400]


def test_the_page_is_what_cost_yaml_gives():
    assert COST_MD.read_text() == page(load_cost())  # else: python -m benchmarks.speed.cost
