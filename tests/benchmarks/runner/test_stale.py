"""A cell is run anew when what it was made from has changed, and nothing is lost by that."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.runner import data
from tests.benchmarks.runner.bench import RANDOM, with_checkpoint


def test_conversion_is_done_once_for_a_checkpoint(bench):
    checkpoint = with_checkpoint(bench)
    assert bench.run() == 0
    converted = bench.output / "clove" / "backbone.pth"
    converted.write_text("kept")
    (bench.output / "clove" / "coco_c4" / "seed0" / "metrics.json").unlink()
    os.utime(checkpoint, ns=(0, 0))  # the same bytes at another time
    assert bench.run() == 0
    assert converted.read_text() == "kept"


def stale(bench, cell):
    """The folders that were moved aside of a cell."""
    folder = bench.output / cell
    return sorted(path.name for path in folder.parent.glob(f"{folder.name}.stale-*"))


def test_a_changed_checkpoint_invalidates_its_own_cells_and_no_file_is_lost(bench):
    with_checkpoint(bench)
    assert bench.run() == 0
    begun = bench.output / "clove" / "coco_fpn" / "seed0"
    (begun / "metrics.json").unlink()
    with_checkpoint(bench, "longer weights")
    assert bench.run() == 0
    for task in ("coco_c4", "coco_fpn"):
        assert f"clove/{task}/seed0: another checkpoint; moved to " in bench.log()
        assert stale(bench, f"clove/{task}/seed0") == ["seed0.stale-1"]
        assert bench.calls(f"clove/{task}/seed0") == 1
        assert bench.calls(f"clove/{task}/seed0.stale-1") == 1
        assert bench.calls(f"random/{task}/seed0") == 1
    assert (bench.output / "clove/coco_c4/seed0.stale-1/metrics.json.stale").exists()
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted longer weights"
    with_checkpoint(bench, "weights again")
    assert bench.run() == 0
    assert stale(bench, "clove/coco_c4/seed0") == ["seed0.stale-1", "seed0.stale-2"]


def test_a_cell_says_which_weights_it_has_and_not_which_lie_there_now(bench):
    checkpoint = with_checkpoint(bench)
    assert bench.run() == 0
    used = bench.state("clove")["made_from"]["checkpoint"]
    cell = bench.stages()["clove/coco_c4/seed0"]
    (cell.folder / "metrics.json").unlink()
    checkpoint.write_text("other weights")  # while the cell waits for its turn
    cell.begin()
    assert cell.state["made_from"]["checkpoint"] == used
    assert bench.run() == 0
    assert "clove/coco_c4/seed0: another checkpoint; moved to " in bench.log()


def test_checkpoint_may_change_while_no_cell_has_begun(bench):
    with_checkpoint(bench, "bad")
    assert bench.run() == 1
    with_checkpoint(bench, "weights")
    assert bench.run() == 0
    assert "stale" not in bench.log()


@pytest.mark.usefixtures("resolved")
def test_an_edited_yaml_invalidates_and_what_changes_no_result_does_not(bench):
    own = bench.folder / "cells.yaml"
    own.write_text("_BASE_: configs/transfer/coco/mask_rcnn_R_50_FPN_1x.yaml\n")
    tree = {"inits": {"random": RANDOM}, "tasks": ["coco_c4", str(own)]}
    bench.write(**tree)
    assert bench.run() == 0
    bench.write(**tree, overrides={"DATALOADER.NUM_WORKERS": 1, "MODEL.DEVICE": "cpu"})
    assert bench.run() == 0
    assert "stale" not in bench.log()
    own.write_text(own.read_text() + "MODEL: {MASK_ON: False}\n")
    assert bench.run() == 0
    assert "random/cells/seed0: MODEL.MASK_ON the default (before: True); moved to " in bench.log()
    bench.write(**tree, task_overrides={"cells": {"SOLVER.MAX_ITER": 80001}})
    assert bench.run() == 0
    assert "cells/seed0: SOLVER.MAX_ITER 80001 (before: 90000); moved to " in bench.log()
    assert stale(bench, "random/cells/seed0") == ["seed0.stale-1", "seed0.stale-2"]
    assert stale(bench, "random/coco_c4/seed0") == []


def test_a_changed_data_set_invalidates_the_cells_of_its_task(bench):
    assert bench.run() == 0
    annotations = bench.folder / "coco_c4.annotations"
    annotations.write_text("5ce7e5" * 10)  # what the cells say
    assert bench.run() == 0
    assert "stale" not in bench.log()
    annotations.write_text("another")
    assert bench.run() == 0
    assert "coco_c4/seed0: another data set; moved to " in bench.log()
    assert stale(bench, "random/coco_fpn/seed0") == []


def test_a_changed_pretraining_is_run_anew_with_all_that_came_of_it(bench):
    def write(epochs):
        overrides = {"SOLVER.EPOCHS": epochs}
        pretrain = {"config": "configs/pretrain/demo.yaml", "overrides": overrides}
        bench.write(inits={"ours": {"method": "clove", "pretrain": pretrain}, "random": RANDOM})

    write(3)
    assert bench.run() == 0
    assert bench.run() == 0
    assert bench.calls("ours/pretrain") == 1
    assert (bench.output / "ours" / "backbone.pth").read_text() == "converted 3"
    matrix = json.loads((bench.output / "matrix.json").read_text())
    assert matrix["inits"]["ours"]["epochs"] == 3
    write(4)
    assert bench.run() == 0
    assert "ours/pretrain: SOLVER.EPOCHS 4 (before: 3); moved to " in bench.log()
    assert stale(bench, "ours/pretrain") == ["pretrain.stale-1"]
    assert stale(bench, "ours/coco_c4/seed0") == ["seed0.stale-1"]
    assert (bench.output / "ours" / "backbone.pth").read_text() == "converted 4"
    assert bench.calls("random/coco_c4/seed0") == 1


@pytest.mark.slow
def test_the_hash_of_the_data_is_that_of_a_fine_tuning(tmp_path, monkeypatch):
    from transfer.tasks import TASKS

    scenes, config = tmp_path / "scenes", TASKS["voc_c4"].config
    words = [str(scenes), "--images", "1", "--train", "4", "--val", "2", "--size", "96"]
    subprocess.run([sys.executable, "-m", "benchmarks.scenes", *words], check=True)
    asked = {"root": str(scenes), "config": config, "overlay": None, "overrides": []}
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    found = {"voc_c4": data.read(asked)}
    assert os.environ["DETECTRON2_DATASETS"] == "elsewhere"
    monkeypatch.setenv("DETECTRON2_DATASETS", str(scenes))
    words = ["--task", "voc_c4", "--weights", "random", "--output", str(tmp_path / "run")]
    words += ["--overlay", "configs/transfer/Base-scenes.yaml", "SOLVER.MAX_ITER", "2"]
    words += ["SOLVER.STEPS", "(1,)", "TEST.PRECISE_BN.NUM_ITER", "1"]
    subprocess.run([sys.executable, "-m", "transfer", *words], check=True)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"]["sha256"] == found["voc_c4"]["sha256"]
    assert data.unchanged(found, {"voc_c4": asked}) == found
    next((scenes / "VOC2007" / "Annotations").iterdir()).touch()
    assert data.unchanged(found, {"voc_c4": asked}) == {}
