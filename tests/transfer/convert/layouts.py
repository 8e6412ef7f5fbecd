"""Checkpoints of every layout around one small set of weights, for the converter's tests."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from pretrain.encoder import build_encoder
from tests.golden_fill import fill

GOLDEN = Path(__file__).parents[2] / "golden"
KEY_MAP = json.loads((GOLDEN / "model_d2_key_map.json").read_text())["mapping"]
RELEASED_STATE = json.loads((GOLDEN / "model_state_dict.json").read_text())["state_dict"]


def filled(trained_statistics=False):
    """A ResNet-50 trunk by the golden files' formula, under torchvision's names."""
    return {
        row["source"].removeprefix("module.encoder."): torch.from_numpy(
            fill(row["source"].removeprefix("module."), row["shape"], "", trained_statistics)
        )
        for row in KEY_MAP
    }


def small_trunk(arch="resnet50"):
    """Names and shapes of the real one; each entry is a number of its own, on disk only that."""
    with torch.device("meta"):
        state = build_encoder(arch).state_dict()
    return {
        key: torch.tensor(number, dtype=value.dtype).expand(value.shape)
        for number, (key, value) in enumerate(state.items())
    }


def random_trunk(arch, seed=0):
    """An encoder whose every BN has its own weights and statistics."""
    torch.manual_seed(seed)
    encoder = build_encoder(arch)
    for key, value in encoder.state_dict().items():
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.uniform_(0.5, 1.0)
        elif key.endswith(("bias", "running_mean")):
            value.uniform_(-0.1, 0.1)
    return encoder.eval()


def under(prefix, trunk):
    return {prefix + key: value for key, value in trunk.items()}


def released(trunk, epoch=200):
    """The released layout: all 660 entries, a Namespace and numpy scalars; teacher all sevens."""
    model = {}
    for row in RELEASED_STATE:
        name = row["key"].removeprefix("encoder.")
        inside = row["key"].startswith("encoder.")
        model["module." + row["key"]] = (
            trunk[name] if inside else torch.tensor(7.0).expand(row["shape"])
        )
    return {
        "opt": argparse.Namespace(crop=0.2, model="CLoVE", output_dir="./output"),
        "model": model,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(0.08), "params": [0]}]},
        "scaler": {},
        "epoch": epoch,
    }


def own(trunk, epoch=2.5, **more):
    """The layout of python -m pretrain."""
    others = ("student.projector.0.weight", "teacher.projector.0.weight", "attention.in_proj_bias")
    model = under("student.encoder.", trunk) | {key: torch.zeros(3) for key in others}
    sevens = {key: torch.tensor(7.0).expand(value.shape) for key, value in trunk.items()}
    model |= under("teacher.encoder.", sevens)
    return {
        "format": 2,
        "kind": "pretraining",
        "export": "student",
        "model": model,
        "step": 10,
        "epoch": epoch,
        "config": {"METHOD": {"NAME": "clove"}, "ENCODER": {"ARCH": "resnet50"}},
    } | more
