"""``--dry-run`` and ``status``: what they say, and that nothing starts."""

import shutil

import pytest

from benchmarks.__main__ import main
from benchmarks.runner.plan import fine_tuning_hours, pretraining_hours
from benchmarks.runner.state import take_lock
from benchmarks.speed.cost import load_cost
from tests.benchmarks.runner.bench import RANDOM, with_checkpoint

pytestmark = pytest.mark.usefixtures("resolved")

ONE = {"inits": {"a": RANDOM}, "tasks": ["coco_c4"]}


PRETRAIN = "configs/pretrain/clove_R_50_in1k_{}ep.yaml"


def first_stage(bench, **tree):
    bench.write(**tree)
    return next(iter(bench.stages().values()))


def test_a_dry_run_prints_the_plan_and_starts_nothing(bench, capsys):
    pretrain = {"config": PRETRAIN.format(200)}
    inits = {"ours": {"method": "clove", "pretrain": pretrain}, "a": RANDOM}
    own = bench.folder / "cells.yaml"
    own.write_text("_BASE_: configs/transfer/coco/mask_rcnn_R_50_FPN_1x.yaml\n")
    bench.write(inits=inits, tasks=["coco_c4", str(own)], seeds=[0], task_seeds={"cells": [0, 1]})
    said = dry_run(bench, capsys)
    assert "2 inits, 2 tasks, 6 cells, 0 of them done" in said
    assert "| ours/pretrain | 1      | 1      | 63 to 66  | 1.6     |" in said
    assert "| coco_c4       | 2      | 2      | 234       | 0.6     |" in said
    assert "| cells         | 4      | 4      | unknown   | unknown |" in said
    assert not bench.output.exists()


def test_the_plan_of_the_paper_needs_none_of_its_files(bench, capsys):
    words = ["--config-file", "configs/benchmarks/paper.yaml", "--output", str(bench.output)]
    assert main(["run", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "299 cells" in said
    assert "checkpoint runs/checkpoints/resnet50-0676ba61.pth " in said
    assert "unknown" not in said
    assert main(["run", *words]) == 2
    assert "nothing was run; missing:" in capsys.readouterr().err


def dry_run(bench, capsys):
    """What it prints."""
    capsys.readouterr()
    assert bench.run("--dry-run") == 0
    return capsys.readouterr().out


def test_what_is_done_is_not_planned_and_what_is_stale_is(bench, capsys):
    assert bench.run() == 0
    bench.write(inits={"random": RANDOM}, task_overrides={"coco_fpn": {"SOLVER.MAX_ITER": 5}})
    said = dry_run(bench, capsys)
    assert "2 cells, 1 of them done" in said
    assert "| coco_c4       | 1      | 0      | 0         | 0.0 |" in said
    assert "| coco_fpn      | 1      | 1      |" in said
    assert "Disk: 0.7 GB are needed" in said
    assert "coco_fpn/seed0: SOLVER.MAX_ITER 5 (before: 90000); it would be run anew" in said
    assert bench.calls("random/coco_fpn/seed0") == 1
    assert "coco_c4: the data that its cells have run on would be read first" in said
    assert bench.run() == 0
    assert "would be read first" not in dry_run(bench, capsys)


def test_what_stands_before_stale_cells_is_planned_where_it_is_stale(bench, capsys):
    pretrain = {"config": PRETRAIN.format(200)}
    ours = {"method": "clove", "pretrain": pretrain}
    bench.write(inits={"ours": ours}, tasks=["coco_c4"])
    assert bench.run() == 0
    pretrain["overrides"] = {"SOLVER.EPOCHS": 400}
    bench.write(inits={"ours": ours}, tasks=["coco_c4"])
    said = dry_run(bench, capsys)
    assert "1 cells, 0 of them done" in said
    assert "| ours/pretrain | 1      | 1      | 126 to " in said
    assert "| ours/convert  | 1      | 1      |" in said
    assert "ours/pretrain: SOLVER.EPOCHS 400 (before: 200); it would be run anew" in said
    pretrain["overrides"] = {}
    bench.write(inits={"ours": ours}, tasks=["coco_c4"], overrides={"SOLVER.MAX_ITER": 5})
    said = dry_run(bench, capsys)
    assert "1 cells, 0 of them done" in said
    assert "| ours/convert  | 1      | 0      |" in said
    assert "ours/pretrain: " not in said


def test_hours_are_the_zoos_where_it_ran_such_images_and_batches(bench):
    def hours(**tree):
        return (fine_tuning_hours(first_stage(bench, **ONE | tree), load_cost()) or [None])[0]

    assert hours() == pytest.approx(0.584 * 90_000 * 8 / 3600)
    assert hours(overrides={"SOLVER.MAX_ITER": 9000}) == pytest.approx(hours() / 10)
    assert hours(overrides={"SOLVER.IMS_PER_BATCH": 8}) is None
    assert hours(overlay="configs/transfer/Base-scenes.yaml") is None


def test_hours_of_a_pretraining_are_counted_for_its_views_only(bench):
    def hours(epochs, **overrides):
        pretrain = {"config": PRETRAIN.format(epochs), "overrides": overrides}
        inits = {"ours": {"method": "clove", "pretrain": pretrain}}
        return pretraining_hours(first_stage(bench, inits=inits), load_cost())

    fast, slow = hours(200)
    assert 0 < fast < slow
    assert hours(400)[0] == pytest.approx(2 * fast)
    assert hours(200, **{"CROPS.GLOBAL_SIZE": 192}) is None


def test_a_disk_that_is_too_small_stops_before_anything_runs(bench, capsys, monkeypatch):
    usage = shutil.disk_usage(bench.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_200_000_000))
    bench.write(inits={"a": RANDOM}, seeds=[0, 1])
    assert bench.run() == 2
    error = capsys.readouterr().err
    assert "the plan needs 1.7 GB, 1.2 GB are free: free some, or choose another" in error
    assert not (bench.output / "a").exists()
    bench.write(**ONE)
    assert bench.run() == 0


def test_status_shows_every_cell(bench, capsys):
    with_checkpoint(bench, "bad")
    assert bench.run() == 1
    tree = {"inits": {"a": RANDOM, "b": RANDOM}, "tasks": ["coco_c4", "voc_c4"]}
    bench.write(**tree, task_seeds={"voc_c4": [0, 1]})
    bench.order(b="fail")
    assert bench.run() == 1
    shutil.rmtree(bench.output / "a/voc_c4/seed1")
    (bench.output / "a/coco_c4/seed0/metrics.json").unlink()
    capsys.readouterr()
    with take_lock(bench.output, "a/coco_c4/seed0"):
        assert main(["status", str(bench.output)]) == 0
    said = capsys.readouterr().out
    assert "| init | pretrain | convert | coco_c4 | voc_c4 |" in said
    assert "| a    |          |         | r       | dw     |" in said
    assert "| b    |          |         | f       | ff     |" in said
    assert "Cells: 1 done, 1 running, 3 failed, 1 waiting" in said


def test_status_of_no_results_says_so(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "no matrix.json of python -m benchmarks run" in capsys.readouterr().err
