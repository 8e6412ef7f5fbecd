"""Checkpoints of every layout around one small set of weights, for the converter's tests."""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from tests.golden_fill import fill

GOLDEN = Path(__file__).parents[1] / "golden"
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


def own(trunk, epoch=2.5):
    """The layout of python -m pretrain."""
    others = ("student.projector.0.weight", "teacher.projector.0.weight", "attention.in_proj_bias")
    model = under("student.encoder.", trunk) | {key: torch.zeros(3) for key in others}
    model |= {f"teacher.encoder.{key}": torch.tensor(7.0) for key in trunk}
    return {
        "format": 1,
        "kind": "clove_pretraining",
        "model": model,
        "step": 10,
        "epoch": epoch,
        "config": {"MODEL": {"ARCH": "resnet50"}},
    }
