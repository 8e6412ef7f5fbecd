"""LARS and schedules: golden numbers of the released code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.config import get_cfg
from pretrain.optim import (
    LARS,
    build_optimizer,
    lars_param_groups,
    lr_schedule,
    teacher_momentum_schedule,
    warmup_cosine,
)

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name):
    with np.load(GOLDEN / name) as file:
        return dict(file)


def steps(parameters, lrs, gradients, **settings):
    """Parameters (a dict of tensors) after each of some LARS steps, as (name, value) by step."""
    model = nn.ParameterDict({name: value.clone() for name, value in parameters.items()})
    for name, parameter in model.items():
        parameter.requires_grad_("frozen" not in name)
    optimizer = LARS(lars_param_groups(model, settings.pop("weight_decay")), lr=0.0, **settings)
    for step, lr in enumerate(lrs.flatten().tolist()):
        for name, parameter in model.items():
            if parameter.requires_grad:
                parameter.grad = gradients(step, name).clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        yield [(name, parameter.detach().clone()) for name, parameter in model.items()]


@pytest.mark.parametrize("setting", range(3))
def test_lars_equals_the_released_code(setting):
    file = {name: torch.from_numpy(value) for name, value in golden("lars_toy.npz").items()}
    key = f"set{setting}__"
    found = steps(
        {name[6:]: value for name, value in file.items() if name.startswith("init__")},
        file[f"{key}lr"],
        lambda step, name: file[f"grad__{name}"][step],
        weight_decay=float(file[f"{key}weight_decay"]),
        momentum=float(file[f"{key}momentum"]),
        trust_coefficient=float(file[f"{key}trust_coef"]),
        eps=float(file[f"{key}eps"]),
    )
    for step, parameters in enumerate(found):
        for name, value in parameters:
            expected = file[f"{key}step{step + 1}__{name}"]
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-300)


def test_lars_without_eps_equals_slotcons_released_code():
    file = {k: torch.from_numpy(v) for k, v in golden("methods/slotcon_lars.npz").items()}
    settings = {k: float(file[k]) for k in ("weight_decay", "momentum", "trust_coefficient")}
    found = steps(
        {name[5:]: value for name, value in file.items() if name.startswith("init_")},
        file["lr"],
        lambda step, name: file[f"grad_{step}_{name}"],
        eps=0.0,
        **settings,
    )
    for step, parameters in enumerate(found):
        for name, value in parameters:
            expected = file[f"after_{step}_{name}"]
            np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-300)


def test_lars_excludes_exactly_the_one_dimensional_tensors(clove_r50):
    adapted, excluded = lars_param_groups(clove_r50, weight_decay=1e-5)
    assert (len(adapted["params"]), len(excluded["params"])) == (57, 110)
    assert (adapted["weight_decay"], excluded["weight_decay"]) == (1e-5, 0)


def test_sgd_decays_every_trained_parameter():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(False))
    optimizer = build_optimizer(model, solver(OPTIMIZER="sgd", WEIGHT_DECAY=0.1, MOMENTUM=0.5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1]
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.param_groups[0]["lr"] = 1.0
    optimizer.step()
    for n, (old, new) in enumerate(zip(before, model.parameters(), strict=True)):
        torch.testing.assert_close(new, old * (0.9 if n < 4 else 1.0))


def solver(**changes):
    cfg = get_cfg().SOLVER
    cfg.merge_from_list([each for pair in changes.items() for each in pair])
    return cfg


@pytest.mark.parametrize("case", range(5))
def test_schedule_equals_the_released_code(case):
    file = golden("schedule_cosine.npz")
    peak, end, epochs, length, warmup_epochs, start = file["args"][case]
    values = warmup_cosine(peak, end, int(epochs * length), int(warmup_epochs * length), start)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, file[f"values_{case}"], rtol=1e-12)


@pytest.mark.parametrize("case", range(4))
def test_recipe_schedules_equal_the_released_code(case):
    file = golden("schedule_recipes.npz")
    *counts, peak = file["recipes"][case]
    gpus, batch, accumulation, epochs, length = map(int, counts)
    total_batch_size, steps = gpus * batch * accumulation, file[f"step_{case}"]
    assert peak == total_batch_size / 256
    recipe = solver(EPOCHS=epochs)
    lr, momentum = file[f"lr_{case}"], file[f"m_{case}"]
    found = lr_schedule(recipe, length, total_batch_size)
    np.testing.assert_allclose(found[steps], lr, rtol=1e-12)
    np.testing.assert_allclose(
        teacher_momentum_schedule(recipe, length)[steps], momentum, rtol=1e-12
    )


@pytest.mark.parametrize("case", range(3))
def test_pixpros_schedules_equal_the_released_code(case):
    """SlotCon's are the same."""
    file = golden("methods/pixpro_schedule.npz")
    length, epochs, warmup, peak = file["settings"][case].tolist()
    recipe = solver(
        EPOCHS=int(epochs),
        WARMUP_EPOCHS=int(warmup),
        WARMUP_ENDPOINT=False,
        BASE_LR=peak,
        END_LR_SHARE=1e-6 / peak,
    )
    found = lr_schedule(recipe, int(length), 256)
    np.testing.assert_allclose(found, file[f"lr_{case}"], rtol=1e-12)
    total = int(file[f"momentum_total_{case}"])  # a few more than there are steps
    found = warmup_cosine(0.99, 1.0, total)[: len(found)]
    np.testing.assert_allclose(found, file[f"momentum_{case}"], rtol=1e-12)


@pytest.mark.parametrize("case", range(2))
def test_vicregls_schedule_equals_the_released_code(case):
    file = golden("methods/vicregl_schedule.npz")
    batch, base_lr, epochs, images, warmup_epochs = file[f"recipe_{case}"].tolist()
    total, warmup = int(epochs * images // batch), int(warmup_epochs * images // batch)
    peak, steps = base_lr * batch / 256, file[f"step_{case}"]
    values = warmup_cosine(peak, 0.001 * peak, total, warmup, 0.0, endpoint=False)
    within = steps < total
    np.testing.assert_allclose(
        values[steps[within]], file[f"lr_{case}"][within], rtol=1e-12, atol=1e-300
    )
    by_config = solver(
        EPOCHS=20, BASE_LR=base_lr, WARMUP_EPOCHS=10, WARMUP_LR_SHARE=0.0, WARMUP_ENDPOINT=False
    )
    assert lr_schedule(by_config, 5, int(batch))[[0, 50]].tolist() == [0.0, peak]


MOCO = {"SCHEDULE_BY": "epoch", "WARMUP_EPOCHS": 0, "END_LR_SHARE": 0.0, "TEACHER_MOMENTUM": 0.999}


@pytest.mark.parametrize(
    ("name", "key", "base_lr", "changes"),
    [
        ("moco", "cosine_200", 0.03, {}),
        ("moco", "cosine_800", 0.03, {}),
        ("moco", "step_200", 0.03, {"MILESTONES": (120, 160)}),
        ("setsim", "defaults_lr", 0.03, {}),
        ("setsim", "script_lr", 0.12, {}),
    ],
)
def test_schedules_by_epoch_equal_the_released_codes(name, key, base_lr, changes):
    expected = golden(f"methods/{name}_schedule.npz")[key]
    recipe = solver(EPOCHS=len(expected), BASE_LR=base_lr, TEACHER_MOMENTUM_END=0.999, **MOCO)
    recipe.merge_from_list([each for pair in changes.items() for each in pair])
    found = lr_schedule(recipe, 3, 256).reshape(-1, 3)
    np.testing.assert_allclose(found, np.tile(expected[:, None], 3), rtol=1e-12)
    assert set(teacher_momentum_schedule(recipe, 3)) == {0.999}


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warm-up of 7 micro-steps does not fit into 5"):
        warmup_cosine(1.0, 0.0, total=5, warmup=7)
