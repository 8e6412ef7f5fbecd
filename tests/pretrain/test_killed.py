"""Runs that are killed, stopped and starved from outside, and what is left of them."""

import json
import os
import random
import re
import resource
import signal
import time

import pytest

from pretrain.runtime import checkpoints
from pretrain.runtime.interrupt import EXIT_CODE
from tests.pretrain.tiny import (
    SAME,
    assert_equal_states,
    finish,
    interrupt,
    last_checkpoint,
    start,
    torchrun,
    wait_until,
    words,
    write_images,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LONG = {"SOLVER__EPOCHS": 30}  # 60 steps, of which the starts below live to see half


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="module")
def straight(images, tmp_path_factory):
    """The last checkpoint of an undisturbed run."""
    run = tmp_path_factory.mktemp("straight")
    finish(start(words(images, run, **LONG)))
    return last_checkpoint(run)


def go_on(images, run):
    return start(["--resume", *words(images, run, **LONG)])


def new_checkpoint(run, known):
    """Whether the newest checkpoint is not one of these."""
    return set(checkpoints.list_checkpoints(run)) - known


@pytest.mark.fault(
    "SIGTERM, SIGUSR2 and SIGINT", cause="one after the other to a run's processes", lost=SAME
)
def test_a_run_interrupted_by_signals_ends_as_an_undisturbed_one(images, tmp_path, straight):
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        known = set(checkpoints.list_checkpoints(tmp_path))
        process = go_on(images, tmp_path)
        wait_until(lambda known=known: new_checkpoint(tmp_path, known), process)
        interrupt(process, number)
    finish(go_on(images, tmp_path))
    assert_equal_states(straight, last_checkpoint(tmp_path))


@pytest.mark.fault(
    "SIGKILL, at 20 random moments",
    cause="10 of them as soon as a save has begun, 10 up to a second after the first step",
    lost=SAME,
)
def test_a_run_killed_at_20_moments_ends_as_an_undisturbed_one(images, tmp_path, straight):
    moments, half_written = random.Random(0), 0
    for n in range(20):
        process = go_on(images, tmp_path)
        if n % 2:
            left = set(tmp_path.glob("checkpoints/.*.tmp"))
            wait_until(lambda left=left: set(tmp_path.glob("checkpoints/.*.tmp")) - left, process)
        else:
            metrics = tmp_path / "metrics.jsonl"
            size = metrics.stat().st_size if metrics.exists() else 0
            wait_until(
                lambda size=size, metrics=metrics: (
                    metrics.exists() and metrics.stat().st_size > size
                ),
                process,
            )
            time.sleep(moments.uniform(0, 1))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        half_written += bool(list(tmp_path.glob("checkpoints/.*.tmp")))
    print(f"20 kills, after {half_written} of which a half-written checkpoint was left")
    assert half_written >= 5
    finish(go_on(images, tmp_path))
    assert not list(tmp_path.glob("checkpoints/.*"))
    assert_equal_states(straight, last_checkpoint(tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 61))


@pytest.mark.fault(
    "A file system that takes no more bytes, in a save or in the log",
    cause="the largest size of a file set to 20 MB, or to 1 kB, while the run is on",
    lost=f"{SAME}; the error says what could not be written",
)
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (20 * 10**6, r"step_\d+\.pth: cannot be written"),
        (1000, r"File too large: '.*/(log\.txt|metrics\.jsonl)'"),
    ],
)
def test_a_full_disk_is_a_clear_end(images, tmp_path, straight, size, message):
    process = go_on(images, tmp_path)
    wait_until(lambda: checkpoints.list_checkpoints(tmp_path), process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    assert re.search(rf"^error: .*{message}", error, re.MULTILINE), error
    assert not list(tmp_path.glob("checkpoints/.*"))
    finish(go_on(images, tmp_path))
    assert_equal_states(straight, last_checkpoint(tmp_path))


def children(pid):
    """Processes whose parent this is (Linux)."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def rank_environment(rank, port):
    """What torchrun says to a rank, so that no torchrun ends the others."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1"} | {name: str(value) for name, value in names.items()}


@pytest.mark.fault(
    "A signal that reaches one rank only",
    cause="SIGTERM to one of two; no torchrun",
    lost="nothing: both end after the same step, with exit code 75 and a checkpoint of it",
)
def test_all_ranks_save_and_end_together(images, tmp_path, unused_port):
    arguments = words(images, tmp_path, SOLVER__EPOCHS=1000)
    ranks = [start(arguments, **rank_environment(rank, unused_port)) for rank in (0, 1)]
    wait_until(lambda: checkpoints.list_checkpoints(tmp_path), ranks[0])
    ranks[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=60)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [EXIT_CODE, EXIT_CODE], errors
    step = checkpoints.load(last_checkpoint(tmp_path))["step"]
    assert f"interrupted after step {step}\n" in errors[0]


@pytest.mark.fault(
    "A rank dies, or hangs",
    cause="SIGKILL and SIGSTOP to one of two; no torchrun that would end the other",
    lost="nothing before the last checkpoint, which stays; the other rank ends at once, or after "
    "TIMEOUT_MINUTES",
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_others_end_soon_after_a_rank(images, tmp_path, unused_port, number):
    run = tmp_path / "run"
    arguments = words(images, run, SOLVER__EPOCHS=1000, TIMEOUT_MINUTES=0.1)
    ranks = [start(arguments, **rank_environment(rank, unused_port)) for rank in (0, 1)]
    try:
        wait_until(lambda: checkpoints.list_checkpoints(run), ranks[0])
        ranks[1].send_signal(number)
        before = time.monotonic()
        _, error = ranks[0].communicate(timeout=60)
        print(f"{signal.Signals(number).name}: {time.monotonic() - before:.1f} s")
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[0].returncode == 1
    assert re.search(
        r"error: rank 0 of 2 ends, since another one ended or did not answer in time", error
    )
    assert checkpoints.load(last_checkpoint(run))["world_size"] == 2


@pytest.mark.fault(
    "A rank dies under torchrun with --max-restarts",
    cause="SIGKILL to one of two in mid-run",
    lost="nothing: all ranks start again from the last checkpoint and end with the same weights",
)
def test_torchrun_restarts_all_ranks_from_the_last_checkpoint(images, tmp_path):
    run, straight = tmp_path / "run", tmp_path / "straight"
    long = {"SOLVER__EPOCHS": 8}
    # Else the ranks may find the addresses of the dead: github.com/pytorch/pytorch/issues/135712
    environment = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    restarting = torchrun(2, "--max-restarts=1")
    process = start(["--resume", *words(images, run, **long)], restarting, **environment)
    wait_until(lambda: len(checkpoints.list_checkpoints(run)) > 1, process)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    error = finish(process)
    assert error.count("resuming at step") == 1
    finish(start(words(images, straight, **long), torchrun(2)))
    assert_equal_states(last_checkpoint(straight), last_checkpoint(run))
