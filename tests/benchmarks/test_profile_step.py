"""``python -m benchmarks.speed step --profile DIR``, on a small network."""

import json
import re

import pytest
import torch
from torch import nn

from benchmarks import profile_step
from benchmarks.speed import main
from pretrain.methods.clove import CLoVE
from pretrain.optim import LARS, lars_param_groups


def small_step():
    """As ``step_inputs``: maps of 4 x 4 and 2 x 2 cells."""
    encoder = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8))
    model = CLoVE(encoder, hidden=16, dim=8, heads=2, num_negatives=4).train()
    boxes = torch.tensor([0.1, 0.1, 0.8, 0.9]).repeat(8, 4, 1)
    crops = torch.randn(2, 4, 3, 32, 32), torch.randn(6, 4, 3, 16, 16)
    return model, LARS(lars_param_groups(model, 2e-5), lr=0.1), (*crops, boxes)


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(profile_step, "step_inputs", small_step)


@pytest.mark.usefixtures("_small")
def test_every_part_takes_time_and_together_they_are_the_step(tmp_path):
    shares = profile_step.profile_step(tmp_path)
    assert [*shares] == [*profile_step.PARTS, profile_step.OTHER]
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.usefixtures("_small")
def test_each_part_is_labelled_as_often_as_it_runs(tmp_path):
    profile_step.profile_step(tmp_path)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    for name in (*profile_step.PARTS, "step"):
        times = 2 if name.startswith("attention") else 1  # globals, locals
        assert names.count(name) == times * profile_step.STEPS, name
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


@pytest.mark.usefixtures("_small")
def test_the_command_prints_parts_operators_and_the_traces_place(tmp_path, capsys):
    assert main(["step", "--profile", str(tmp_path / "new")]) == 0
    _, second, *lines, last = capsys.readouterr().out.splitlines()
    assert second == "step, bf16, 4 images, mean of 3"
    heads = [place for place, line in enumerate(lines) if line.endswith("ms")]
    assert [lines[place].split()[0] for place in heads] == ["part", "operator"]
    parts, operators = lines[1 : heads[1]], lines[heads[1] + 1 :]
    assert len(parts) == len(profile_step.PARTS) + 1
    assert len(operators) == profile_step.OPERATORS
    assert not any(line.startswith(profile_step.PARTS) for line in operators)
    for line in parts + operators:
        assert re.search(r" \d+\.\d% +\d+\.\d$", line), line
    assert last.endswith(str(tmp_path / "new" / "trace.json"))


def test_profile_is_of_step_only(capsys):
    with pytest.raises(SystemExit):
        main(["loss", "--profile", "anywhere"])
    assert "not into loss" in capsys.readouterr().err
