"""Several stages at once on one machine, and what is left after each way of being stopped."""

import itertools
import os
import signal

import pytest

from benchmarks.__main__ import main
from benchmarks.runner.local import Local, make_slots
from pretrain.runtime.config import ConfigError
from pretrain.runtime.interrupt import InterruptFlag
from tests.benchmarks.runner.bench import RANDOM, wait_until


def test_slots_share_cores_or_whole_gpus(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert make_slots(1, {})[0].environment == {}
    assert [slot.environment for slot in make_slots(2, {})] == [{"OMP_NUM_THREADS": "3"}] * 2
    assert make_slots(2, {"OMP_NUM_THREADS": "1"})[1].environment == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr("torch.cuda.device_count", lambda: 5)
    slots = make_slots(2, {})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0,1", "2,3"]
    assert [slot.gpus for slot in slots] == [2, 2]
    assert make_slots(1, {"CUDA_VISIBLE_DEVICES": "3,GPU-a"})[0].gpus == 2
    assert make_slots(1, {"CUDA_VISIBLE_DEVICES": ""})[0].gpus == 0
    for count in (6, 0):
        with pytest.raises(ConfigError, match=f"--slots {count}: 1 at least; each has whole GPUs"):
            make_slots(count, {})


def test_two_slots_run_two_cells_at_once(bench):
    bench.write(inits={"a": RANDOM, "b": RANDOM}, tasks=["coco_c4"])
    bench.order(a="meet", b="meet")  # each waits until the other one has started
    assert bench.run("--slots", "2") == 0
    assert bench.calls("a/coco_c4/seed0") == bench.calls("b/coco_c4/seed0") == 1


def test_a_signal_reaches_all_that_run(bench):
    bench.write(inits={"a": RANDOM, "b": RANDOM}, tasks=["coco_c4"])
    bench.order(a="wait", b="wait")
    process = bench.start("--slots", "2")
    cells = [bench.output / init / "coco_c4" / "seed0" for init in "ab"]
    wait_until(lambda: all((cell / "started").exists() for cell in cells), process)
    os.kill(process.pid, signal.SIGTERM)
    error = process.communicate()[1]
    assert process.returncode == 75, error
    assert all((cell / "saved").exists() for cell in cells)


def started(bench):
    """How many stages have been started, in all."""
    return sum(len(path.read_text().splitlines()) for path in bench.output.rglob("calls"))


def test_a_cell_that_outlives_a_killed_run_is_waited_for(bench):
    bench.write(inits={"a": RANDOM}, tasks=["coco_c4"])
    bench.order(a="slow")
    process = bench.start()
    cell = bench.output / "a" / "coco_c4" / "seed0"
    wait_until((cell / "calls").exists, process)
    process.kill()
    process.communicate()
    assert bench.run() == 0
    assert "a/coco_c4/seed0: another process works on it; waiting for that" in bench.log()
    assert bench.calls("a/coco_c4/seed0") == 1


def test_a_cell_that_another_run_made_of_other_settings_is_not_taken_for_ours(bench):
    bench.write(inits={"a": RANDOM}, tasks=["coco_c4"], overrides={"SOLVER.MAX_ITER": 1})
    bench.order(a="slow")
    process = bench.start()
    wait_until((bench.output / "a" / "coco_c4" / "seed0" / "calls").exists, process)
    bench.order()
    (stage,) = bench.stages().values()
    bench.write(inits={"a": RANDOM}, tasks=["coco_c4"], overrides={"SOLVER.MAX_ITER": 2})
    (other,) = bench.stages().values()
    process.communicate()
    assert stage.done
    assert not stage.stale
    assert "SOLVER.MAX_ITER 2 (before: 1)" in other.stale
    with InterruptFlag() as interrupted:  # as if it had not been done at the start
        Local([other], 1, make_slots(1), 0, interrupted).run()
    assert (bench.output / "a/coco_c4/seed0.stale-1").exists()
    assert bench.calls("a/coco_c4/seed0") == 1


@pytest.mark.slow
def test_a_matrix_stopped_three_times_runs_no_finished_cell_twice(bench, capsys):
    pretrain = {"config": "configs/pretrain/demo.yaml"}
    inits = {"ours": {"method": "clove", "pretrain": pretrain}, "a": RANDOM, "b": RANDOM}
    bench.write(inits=inits, seeds=[0, 1])
    bench.order(ours="slow", a="slow", b="slow")
    assert bench.run("--dry-run") == 0
    assert "3 inits, 2 tasks, 12 cells, 0 of them done" in capsys.readouterr().out
    assert not bench.output.exists()
    stopped, finished = itertools.count(2, 3), {}
    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
        process, many = bench.start(), next(stopped)
        wait_until(lambda n=many: bench.output.exists() and started(bench) >= n, process)
        os.kill(process.pid, number)
        process.communicate()
        assert process.returncode in (75, -signal.SIGKILL)
        assert len(list(bench.output.rglob("metrics.json"))) < 12
        main(["status", str(bench.output)])
        assert "waiting" in capsys.readouterr().out
        for path in bench.output.rglob("metrics.json"):
            finished.setdefault(path.parent, (path.parent / "calls").read_text())
    process = bench.start()
    error = process.communicate()[1]
    assert process.returncode == 0, error
    assert len(list(bench.output.rglob("metrics.json"))) == 12
    for cell, calls in finished.items():
        assert (cell / "calls").read_text() == calls
    assert (bench.output / "ours" / "pretrain" / "calls").read_text() == "x\n"
    main(["status", str(bench.output)])
    assert "Cells: 12 done, 0 running, 0 failed, 0 waiting" in capsys.readouterr().out
