"""The model end to end: golden numbers of the released code (sthalles/CLoVE@d706573)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision

from pretrain.encoder import Encoder, build_encoder
from pretrain.methods.clove import CLoVE
from pretrain.optim import LARS, lars_param_groups, warmup_cosine
from tests.golden_fill import fill, image, probe

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def released_state(model: CLoVE) -> dict[str, torch.Tensor]:
    """The model's tensors under the released names, without ``module.``."""
    state = {}
    for key, value in model.state_dict().items():
        network, _, rest = key.partition(".")
        if network == "attention":
            state[f"self_attn.{rest}"] = value
        else:
            module, _, rest = rest.partition(".")
            state[f"{module}{'_k' if network == 'teacher' else ''}.{rest}"] = value
    return state


def load_filled(model: CLoVE, teacher_is_copy: bool = False) -> CLoVE:
    filled = {}
    for key, value in released_state(model.float()).items():
        source = key.replace("_k.", ".", 1) if teacher_is_copy else key
        filled[f"module.{key}"] = torch.from_numpy(np.asarray(fill(source, value.shape)))
    model.load_released(filled)
    return model.double()


def crops(tag: str, batch: int, global_size: int, local_size: int):
    views = [
        torch.from_numpy(image(f"{tag}{view}", (batch, 3, size, size))).double()
        for view, size in enumerate([global_size] * 2 + [local_size] * 6)
    ]
    return views[:2], views[2:]


def sums_norms_probes(tensors):
    rows = []
    for key, value in tensors.items():
        flat = value.detach().double().flatten().numpy()
        rows.append([flat.sum(), np.linalg.norm(flat), flat @ probe(key, flat.size)])
    return np.array(rows)


def assert_close(actual, expected, rtol):
    """Relative to the largest value: single elements may lie at zero."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_state_has_the_released_entries(clove_r50):
    expected = json.loads((GOLDEN / "model_state_dict.json").read_text())
    state = released_state(clove_r50)
    rows = {row["key"]: row for row in expected["state_dict"]}
    assert state.keys() == rows.keys()
    assert {key: list(value.shape) for key, value in state.items()} == {
        key: row["shape"] for key, row in rows.items()
    }
    trainable = sum(p.numel() for p in clove_r50.parameters() if p.requires_grad)
    assert trainable == expected["parameter_counts"]["trainable"]


def test_initialisation_follows_the_released_code(clove_r50):
    conv = clove_r50.student.encoder.layer2[0].conv2.weight
    assert conv.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    for block in clove_r50.student.encoder.layer3:
        assert not block.bn3.weight.any()
    assert clove_r50.student.projector.linear1.weight.abs().max() <= 2048**-0.5
    assert clove_r50.attention.in_proj_weight.abs().max().item() == pytest.approx(0.0765, abs=1e-3)
    pairs = zip(clove_r50.student.parameters(), clove_r50.teacher.parameters(), strict=True)
    assert all(torch.equal(student, teacher) for student, teacher in pairs)


@pytest.mark.parametrize("arch", ["resnet50", "resnet101"])
def test_encoder_has_the_specified_size(arch):
    expected = json.loads((GOLDEN / "model_archs.json").read_text())["archs"][arch]
    encoder = build_encoder(arch).eval()
    assert sum(p.numel() for p in encoder.parameters()) == expected["n_params"]
    assert len(encoder.state_dict()) == expected["n_entries"]
    assert list(encoder(torch.zeros(1, 3, 96, 96)).shape) == expected["out_96"]


def test_backbone_in_eval_mode_equals_the_released_code():
    expected = golden("model_backbone_eval")
    encoder = build_encoder("resnet50")
    state = {
        key: torch.from_numpy(
            np.asarray(fill(f"encoder.{key}", value.shape, trained_statistics=True))
        )
        for key, value in encoder.state_dict().items()
    }
    encoder.load_state_dict(state)
    encoder.double().eval()
    pixels = torch.from_numpy(image("backbone_eval", (1, 3, 96, 96))).double()
    with torch.no_grad():
        stages = encoder.stages(pixels)
        assert torch.equal(stages["res5"], encoder(pixels))
    assert_close(stages["res5"].numpy(), expected["c5"], 1e-6)
    for ours, theirs in zip(stages, ("maxpool", *(f"layer{n}" for n in range(1, 5))), strict=True):
        assert list(stages[ours].shape) == expected[f"{theirs}_shape"].tolist()
        means = stages[ours].mean(dim=(0, 2, 3))
        assert_close(means.numpy(), expected[f"{theirs}_channel_mean"], 1e-9)


@pytest.mark.parametrize("name", ["attention_small", "attention_mid", "attention_full_256_8"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_self_attention_equals_the_released_code(name, dtype):
    expected = golden(name)
    dim, heads = int(expected.get("embed_dim", 256)), int(expected.get("num_heads", 8))
    encoder = Encoder(torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1]))
    model = CLoVE(encoder, hidden=8, dim=dim, heads=heads)
    attention = model.attention
    with torch.no_grad():
        for key, parameter in attention.named_parameters():
            stored = expected.get(key.replace(".", "_"))
            value = fill(f"self_attn.{key}", parameter.shape) if stored is None else stored
            parameter.copy_(torch.from_numpy(value))
    attention.to(dtype)
    x = torch.from_numpy(expected["x"]).to(dtype).requires_grad_()
    unit = model.contextualize(x)
    atol = 1e-12 if dtype == torch.float64 else 2e-5
    np.testing.assert_allclose(unit.detach(), expected["y_unit"], rtol=0, atol=atol)
    tokens = x.flatten(2).transpose(1, 2)
    raw, weights = attention(tokens, tokens, tokens)
    raw = raw.transpose(1, 2).reshape(x.shape)
    np.testing.assert_allclose(raw.detach(), expected["y_raw"], rtol=0, atol=atol)
    np.testing.assert_allclose(
        weights.detach(), expected["attn_mean_over_heads"], rtol=0, atol=atol
    )
    if "cotangent" in expected:
        (unit * torch.from_numpy(expected["cotangent"])).sum().backward()
        np.testing.assert_allclose(x.grad, expected["grad_x"], rtol=0, atol=atol * 10)
        for key, parameter in attention.named_parameters():
            np.testing.assert_allclose(
                parameter.grad, expected[f"grad_{key.replace('.', '_')}"], rtol=0, atol=atol * 10
            )


def test_without_heads_every_cell_is_normalized_alone():
    torch.manual_seed(0)
    model = CLoVE(build_encoder("resnet18"), hidden=8, dim=16, heads=0, num_negatives=3)
    assert not any("attention" in name for name in model.state_dict())
    maps = torch.randn(2, 16, 3, 4)
    unit = model.contextualize(maps)
    expected = maps.numpy() / np.linalg.norm(maps.numpy(), axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["model_e2e_128_64", "model_e2e_224_96"])
def test_forward_and_backward_equal_the_released_code(name, clove_r50):
    expected = golden(name)
    rows = json.loads((GOLDEN / "model_e2e_row_order.json").read_text())
    model = load_filled(clove_r50).train()
    maps = {"gl_sa_maps": [], "gl_projs_ng": []}
    contextualize = model.contextualize
    model.contextualize = lambda x: (
        maps["gl_sa_maps"].append(contextualize(x)) or maps["gl_sa_maps"][-1]
    )
    model.teacher.register_forward_hook(lambda *a: maps["gl_projs_ng"].append(F.normalize(a[2])))
    batch = crops(
        "view", int(expected["n"]), int(expected["global_size"]), int(expected["local_size"])
    )
    boxes = torch.from_numpy(expected["coords"])
    outputs = model(*batch, boxes, teacher_momentum=float(expected["momentum"]))
    outputs["loss"].backward()
    assert outputs["loss"].item() == pytest.approx(float(expected["loss"]), rel=1e-12)
    global_maps, local_maps = maps["gl_sa_maps"]
    rtol = 1e-9 if expected["gl_sa_maps"].dtype == np.float64 else 1e-6
    assert_close(global_maps.detach(), expected["gl_sa_maps"], rtol)
    assert_close(local_maps.detach(), expected["lo_sa_maps"], rtol)
    assert_close(maps["gl_projs_ng"][0], expected["gl_projs_ng"], rtol)
    state = released_state(model)
    order = rows["state_keys"]
    actual = sums_norms_probes({key: state[key] for key in order})
    np.testing.assert_allclose(actual, expected["state_after_sum_norm_probe"], rtol=1e-9, atol=1e-9)
    gradients = {
        key: value.grad
        for key, value in zip(
            released_state(model), model.state_dict(keep_vars=True).values(), strict=True
        )
        if value.requires_grad
    }
    order = rows["grad_keys"]
    actual = sums_norms_probes({key: gradients[key] for key in order})
    assert_close(actual, expected["grad_sum_norm_probe"], 1e-9)


def test_training_trace_equals_the_released_code():
    """Accumulation with an incomplete last group, both schedules, LARS, EMA timing, BN buffers."""
    expected = golden("model_train_trace")
    rows = json.loads((GOLDEN / "model_train_trace_row_order.json").read_text())
    resnet = torchvision.models.ResNet(
        torchvision.models.resnet.Bottleneck, expected["layers"].tolist()
    )
    model = load_filled(CLoVE(Encoder(resnet)), teacher_is_copy=True).train()
    epochs, length, accumulation = (
        int(expected[key]) for key in ("epochs", "steps_per_epoch", "grad_accumulation")
    )
    peak, total = float(expected["global_lr"]), epochs * length
    lrs = warmup_cosine(
        peak, 0.01 * peak, total, int(expected["warmup_epochs"]) * length, peak / 100
    )
    momenta = warmup_cosine(float(expected["ema_base"]), 1.0, total)
    np.testing.assert_allclose(lrs, expected["lr_schedule"], rtol=1e-12)
    np.testing.assert_allclose(momenta, expected["ema_schedule"], rtol=1e-12)
    groups = lars_param_groups(model, float(expected["weight_decay"]))
    optimizer = LARS(groups, lr=0.0, momentum=float(expected["sgd_momentum"]))
    sizes = int(expected["batch"]), int(expected["global_size"]), int(expected["local_size"])
    states = []
    for epoch in range(epochs):
        for i in range(length):
            t = epoch * length + i
            ends_group = (i + 1) % accumulation == 0 or i + 1 == length
            batch = crops(f"e{epoch + 1}i{i}v", *sizes)
            boxes = torch.from_numpy(expected["coords"][t])
            outputs = model(*batch, boxes, momenta[t] if ends_group else None)
            loss = outputs["loss"] / accumulation
            loss.backward()
            assert loss.item() == pytest.approx(expected["logged_loss"][t], rel=1e-9)
            if ends_group:
                for group in optimizer.param_groups:
                    group["lr"] = lrs[t]
                optimizer.step()
                optimizer.zero_grad()
        state = released_state(model)
        order = rows["state_keys"]
        states.append(sums_norms_probes({key: state[key] for key in order}))
    np.testing.assert_allclose(states, expected["state_sum_norm_probe"], rtol=1e-9, atol=1e-9)
    final = released_state(model)
    for key, value in expected.items():
        if key.startswith("final__"):
            name = next(k for k in final if k.replace(".", "_") == key.removeprefix("final__"))
            assert_close(final[name], value, 1e-9)


def test_wrong_released_entries_are_named(clove_r50):
    state = {f"module.{key}": value for key, value in released_state(clove_r50).items()}
    del state["module.encoder_k.layer4.2.bn3.bias"]
    with pytest.raises(RuntimeError, match=r"teacher\.encoder\.layer4\.2\.bn3\.bias"):
        clove_r50.load_released(state)


@pytest.mark.parametrize("num_locals", [0, 2])
def test_width_depth_heads_and_crops_are_free(num_locals):
    model = CLoVE(build_encoder("resnet18"), hidden=32, dim=24, heads=3, num_negatives=2)
    local_crops = torch.rand(num_locals, 2, 3, 64, 64)
    boxes = torch.rand(2 + num_locals, 2, 4)
    outputs = model(torch.rand(2, 2, 3, 96, 96), local_crops, boxes, teacher_momentum=0.9)
    outputs["loss"].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(value.isfinite() for value in outputs.values())


def test_teacher_moves_only_when_given_a_momentum_and_keeps_its_own_statistics():
    model = CLoVE(build_encoder("resnet18"), hidden=8, dim=8, heads=1, num_negatives=2)
    with torch.no_grad():
        for parameter in model.student.parameters():
            parameter.add_(1.0)
    before = [p.clone() for p in model.teacher.parameters()]
    batch = torch.rand(2, 2, 3, 96, 96), [], torch.rand(2, 2, 4)
    model(*batch)
    assert all(map(torch.equal, before, model.teacher.parameters()))
    model(*batch, teacher_momentum=0.75)
    for old, new, student in zip(
        before, model.teacher.parameters(), model.student.parameters(), strict=True
    ):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * student)
    assert model.teacher.encoder.bn1.num_batches_tracked == 2
    assert not torch.equal(
        model.teacher.encoder.bn1.running_mean, model.student.encoder.bn1.running_mean
    )
