"""The matrix on this machine: what runs, what is skipped, what goes on after a signal.

A small script stands in for what the stages run.
"""

import json
import os
import signal

import pytest

from tests.benchmarks.runner.bench import RANDOM, wait_until, with_checkpoint
from tests.benchmarks.tables.cells import write_cell


def test_every_cell_runs_into_a_folder_of_its_own(bench):
    with_checkpoint(bench)
    assert bench.run() == 0
    for init in ("clove", "random"):
        for task in ("coco_c4", "coco_fpn"):
            assert bench.calls(f"{init}/{task}/seed0") == 1
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted weights"
    calls = bench.output / "clove" / "coco_fpn" / "seed0" / "calls"
    assert calls.read_text() == f"{bench.output / 'clove' / 'backbone.pth'}\n"
    assert "random/coco_fpn/seed0 took 0:00:0" in bench.log()


def test_cells_with_metrics_are_skipped(bench):
    write_cell(bench.output, task="coco_c4")
    assert bench.run() == 0
    assert "1 of 2 cells are done" in bench.log()
    assert bench.calls("random/coco_c4/seed0") == 0
    assert bench.calls("random/coco_fpn/seed0") == 1
    assert bench.run() == 0
    assert "2 of 2 cells are done" in bench.log()
    assert bench.calls("random/coco_fpn/seed0") == 1


@pytest.mark.parametrize("content", ['{"format": 1, "task": ', "[1]"])
def test_a_corrupt_result_is_set_aside_and_its_cell_runs_again(bench, content):
    assert bench.run() == 0
    path = bench.output / "random" / "coco_c4" / "seed0" / "metrics.json"
    path.write_text(content)
    assert bench.run() == 0
    assert "random/coco_c4/seed0/metrics.json.bad-1: " in bench.log()
    assert path.with_name("metrics.json.bad-1").read_text() == content
    assert json.loads(path.read_text())["init"] == "random"
    assert bench.calls("random/coco_c4/seed0") == 2
    assert bench.calls("random/coco_fpn/seed0") == 1


def test_a_failing_cell_keeps_its_log_and_stops_no_other(bench, capsys):
    bench.write(inits={"a": {"method": "random"}, "b": {"method": "random"}})
    bench.order(a="fail")
    assert bench.run() == 1
    assert bench.calls("b/coco_c4/seed0") == bench.calls("b/coco_fpn/seed0") == 1
    end = capsys.readouterr().err.split("failed: ", 1)[1]
    for task in ("coco_c4", "coco_fpn"):
        assert f"a/{task}/seed0: exit code 3" in end
        assert str(bench.output / "a" / task / "seed0" / "stdout.log") in end
    assert end.count("CUDA out of memory, as it were") == 2

    bench.order(a="finish")
    assert bench.run() == 0
    assert bench.calls("a/coco_c4/seed0") == 2
    assert bench.calls("b/coco_c4/seed0") == 1
    log = (bench.output / "a" / "coco_c4" / "seed0" / "stdout.log").read_text()
    assert "CUDA out of memory" in log


def test_a_failing_conversion_stops_only_its_own_init(bench):
    with_checkpoint(bench, "bad")
    assert bench.run() == 1
    assert bench.calls("random/coco_c4/seed0") == 1
    assert bench.calls("clove/coco_c4/seed0") == 0
    assert "clove/convert: exit code 1" in bench.log()
    assert "truncated" in bench.log()


@pytest.mark.parametrize(
    ("number", "kill"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)]
)
def test_interrupted_run_saves_its_cell_and_the_same_command_goes_on(bench, number, kill):
    bench.write(inits={"a": {"method": "random"}, "b": {"method": "random"}})
    bench.order(b="wait")
    process = bench.start()
    cell = bench.output / "b" / "coco_c4" / "seed0"
    wait_until((cell / "started").exists, process)
    kill(process.pid, number)
    error = process.communicate()[1]
    assert process.returncode == 75, error
    assert "interrupted with 1 of 4 cells done; the same command goes on from here" in error
    assert (cell / "saved").exists()
    assert not (cell / "metrics.json").exists()

    bench.order()
    process = bench.start()
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert "1 of 4 cells are done" in error
    assert bench.calls("a/coco_c4/seed0") == 1
    assert bench.calls("b/coco_c4/seed0") == 2


def test_what_failed_is_tried_again_after_the_others_and_bad_input_is_not(bench):
    bench.write(inits={"a": RANDOM, "b": RANDOM}, retries=2)
    bench.order(a="fail")
    assert bench.run() == 1
    assert bench.calls("a/coco_c4/seed0") == 3
    assert bench.calls("b/coco_c4/seed0") == 1
    log = bench.log()
    assert log.index("b/coco_fpn/seed0 took") < log.index("a/coco_c4/seed0 runs, attempt 2")
    assert log.count("a/coco_c4/seed0 FAILED: exit code 3") == 1
    bench.order(a="refuse", b="forget")
    (bench.output / "b/coco_c4/seed0/metrics.json").unlink()
    assert bench.run() == 1
    assert bench.calls("a/coco_c4/seed0") == 4
    assert "b/coco_c4/seed0: ended without what it should leave" in bench.log()


def test_newest_checkpoint_of_a_run_folder_is_taken(bench):
    folder = bench.folder / "pretrain" / "checkpoints"
    folder.mkdir(parents=True)
    for step in ("00000900", "00010000", "00002000"):
        (folder / f"step_{step}.pth").write_text(step)
    (folder / "step_draft.pth").touch()
    bench.write(inits={"clove": {"method": "clove", "checkpoint": str(folder.parent)}})
    assert bench.run() == 0
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted 00010000"


def test_data_root_of_the_yaml_wins_over_the_users(bench, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "the users own")
    log = bench.output / "random" / "coco_c4" / "seed0" / "stdout.log"
    bench.run()
    said = log.read_text()
    assert said.startswith("$ DETECTRON2_DATASETS='the users own' ")
    assert "data root the users own" in said
    (log.parent / "metrics.json").unlink()
    scenes = bench.folder / "scenes"
    scenes.mkdir()
    bench.write(inits={"random": RANDOM}, datasets=str(scenes))
    bench.run()
    assert f"data root {scenes}" in log.read_text()
