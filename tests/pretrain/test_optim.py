"""LARS and schedules: golden numbers of the released code."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.optim import LARS, lars_param_groups, warmup_cosine

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("setting", range(3))
def test_lars_equals_the_released_code(setting):
    with np.load(GOLDEN / "lars_toy.npz") as file:
        golden = {name: torch.from_numpy(file[name]) for name in file.files}
    assert int(golden["n_settings"]) == 3
    names = [name.removeprefix("init__") for name in golden if name.startswith("init__")]
    model = nn.ParameterDict({name: golden[f"init__{name}"].clone() for name in names})
    for name, parameter in model.items():
        parameter.requires_grad_("frozen" not in name)
    key = f"set{setting}__"
    groups = lars_param_groups(model, float(golden[f"{key}weight_decay"]))
    optimizer = LARS(
        groups,
        lr=0.0,
        momentum=float(golden[f"{key}momentum"]),
        trust_coefficient=float(golden[f"{key}trust_coef"]),
        eps=float(golden[f"{key}eps"]),
    )
    for step, lr in enumerate(golden[f"{key}lr"].flatten().tolist()):
        for name, parameter in model.items():
            if parameter.requires_grad:
                parameter.grad = golden[f"grad__{name}"][step].clone()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        for name, parameter in model.items():
            expected = golden[f"{key}step{step + 1}__{name}"]
            np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-12, atol=1e-300)


def test_lars_excludes_exactly_the_one_dimensional_tensors(clove_r50):
    adapted, excluded = lars_param_groups(clove_r50, weight_decay=1e-5)
    assert (len(adapted["params"]), len(excluded["params"])) == (57, 110)
    assert (adapted["weight_decay"], excluded["weight_decay"]) == (1e-5, 0)


def test_lars_state_survives_saving():
    def step(optimizer, parameter, gradient):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()

    straight = nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([{"params": [straight]}], lr=0.1)
    step(optimizer, straight, 1.0)
    resumed = nn.Parameter(straight.detach().clone())
    second = LARS([{"params": [resumed]}], lr=0.5)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(optimizer, straight, 2.0)
    step(second, resumed, 2.0)
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize("case", range(5))
def test_schedule_equals_the_released_code(case):
    with np.load(GOLDEN / "schedule_cosine.npz") as file:
        peak, end, epochs, length, warmup_epochs, start = file["args"][case]
        expected = file[f"values_{case}"]
    values = warmup_cosine(peak, end, int(epochs * length), int(warmup_epochs * length), start)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("case", range(4))
def test_recipe_schedules_equal_the_released_code(case):
    with np.load(GOLDEN / "schedule_recipes.npz") as file:
        gpus, batch, accumulation, epochs, length, peak = file["recipes"][case]
        steps, lr, momentum = (file[f"{name}_{case}"] for name in ("step", "lr", "m"))
    assert peak == gpus * batch / 256 * accumulation
    total, warmup = int(epochs * length), int(5 * length)
    np.testing.assert_allclose(
        warmup_cosine(peak, 0.01 * peak, total, warmup, peak / 100)[steps], lr, rtol=1e-12
    )
    np.testing.assert_allclose(warmup_cosine(0.99, 1.0, total)[steps], momentum, rtol=1e-12)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warm-up of 7 micro-steps does not fit into 5"):
        warmup_cosine(1.0, 0.0, total=5, warmup=7)
