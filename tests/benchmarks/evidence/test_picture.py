"""SCENES.svg: whose curves it has, and that it can be seen on light and dark pages."""

import numpy as np
import pytest

from benchmarks.evidence.picture import draw, mean, panels
from benchmarks.evidence.rows import read_replicates
from tests.benchmarks.evidence.lab import STEPS, write_curves, write_pairs, write_replicate

OF_CELL = {"run": 1, "seed": 100, "regime": "full", "init": "clove", "task": "coco_fpn"}


def test_a_panel_has_a_line_for_each_replicate_and_a_bold_one_for_their_mean(tmp_path):
    write_pairs(tmp_path, [10.0, 11.0, 12.0], [9.0, 9.5, 9.7])
    write_curves(tmp_path, OF_CELL, STEPS, {"total_loss": (4.0, None, 1.0)})
    replicates = read_replicates(tmp_path)
    found = panels(replicates)
    assert list(found) == ["pretraining: match rate", "coco_fpn: loss"]
    counts = {
        title: {name: len(curves) for name, curves in own.items()} for title, own in found.items()
    }
    assert counts == {
        "pretraining: match rate": {"clove": 3, "chance": 3},
        "coco_fpn: loss": {"clove": 3, "random": 3},
    }
    gap, whole, _ = found["coco_fpn: loss"]["clove"]
    assert [own.tolist() for own in gap] == [[19, 59], [4, 1]]  # no point where it was not finite
    assert [own.tolist() for own in whole] == [[19, 39, 59], [4, 2, 1]]
    picture = draw(replicates)
    assert picture.count('<g id="bold ') == 4
    assert all(f">{title}<" in picture for title in found)
    assert "nan" not in picture.lower()


def test_every_task_of_both_regimes_has_a_panel_and_ablations_have_none(tmp_path):
    tasks = dict.fromkeys(("coco_c4", "coco_fpn", "voc_c4"), 9.0)
    both = {"clove": tasks, "random": tasks}
    write_replicate(tmp_path, 100, {"full": both, "frozen": both, "no_locals": both})
    titles = [title.partition(":")[0] for title in panels(read_replicates(tmp_path))]
    assert titles == ["pretraining", *tasks, *(f"{task}, frozen trunk" for task in tasks)]


def test_the_mean_of_curves_of_different_steps_is_that_of_the_lines_between():
    first = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 3.0])
    second = np.array([5.0, 15.0, 30.0]), np.array([2.0, 4.0, 7.0])
    x, y = mean([first, second])
    assert x.tolist() == [5.0, 10.0, 15.0, 20.0]
    assert y == pytest.approx([(0.5 + 2) / 2, (1 + 3) / 2, (2 + 4) / 2, (3 + 5) / 2])
    apart = np.array([40.0, 50.0]), np.array([1.0, 1.0])
    assert len(mean([first, apart])[0]) == 0
