"""``python -m benchmarks.speed step --profile DIR``, on a small network."""

import json

import pytest
import torch
from torch import nn

from benchmarks.speed import profiling
from benchmarks.speed.__main__ import main
from pretrain.methods.clove import CLoVE
from pretrain.optim import LARS, lars_param_groups

PARTS = [*profiling.STUDENT, "attention, normalize", "teacher, update", "teacher, forward"]
PARTS += ["loss", "backward", "LARS", "step"]


def small_step():
    """As ``step_inputs``: maps of 4 x 4 and 2 x 2 cells."""
    encoder = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8))
    model = CLoVE(encoder, hidden=16, dim=8, heads=2, num_negatives=4).train()
    boxes = torch.tensor([0.1, 0.1, 0.8, 0.9]).repeat(8, 4, 1)
    crops = torch.randn(2, 4, 3, 32, 32), torch.randn(6, 4, 3, 16, 16)
    return model, LARS(lars_param_groups(model, 2e-5), lr=0.1), (*crops, boxes)


def test_each_part_is_labelled_as_often_as_it_runs_and_stands_in_the_table(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(profiling, "step_inputs", small_step)
    assert main(["step", "--profile", str(tmp_path / "new")]) == 0
    table = capsys.readouterr().out
    events = json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    for name in PARTS:
        times = 2 if name.startswith("attention") else 1  # globals, locals
        assert names.count(name) == times * profiling.STEPS, name
    assert "Self CPU %" in table
    for name in ("step", "backward", "student, globals"):
        assert f" {name} " in table
    assert table.rstrip().endswith(str(tmp_path / "new" / "trace.json"))


def test_profile_is_of_step_only(capsys):
    with pytest.raises(SystemExit):
        main(["loss", "--profile", "anywhere"])
    assert "not into loss" in capsys.readouterr().err
