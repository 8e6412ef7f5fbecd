"""Pretraining as a Slurm job: submitit's local executor, and a stand-in for Slurm on PATH."""

import contextlib
import os
import re
import signal

import pytest

from pretrain.__main__ import main
from pretrain.runtime import checkpoints, slurm
from pretrain.runtime.config import ConfigError
from pretrain.runtime.interrupt import Interrupted
from tests import slurm as stand_in
from tests.pretrain.tiny import (
    CONFIG,
    SAME,
    assert_equal_states,
    finish,
    last_checkpoint,
    start,
    torchrun,
    words,
    write_images,
)

LONG = {"SOLVER__EPOCHS": 12}


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def submit(arguments, capfd):
    code = main(["--config-file", CONFIG, "--slurm", *arguments])
    said = capfd.readouterr()
    return code, said.out, said.err


def asked(processes=1, **changes):
    return LONG | {"SLURM__PROCESSES": processes, **changes}


def lives_of(job):
    path = job / "lives"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.fault(
    "A Slurm job at its time limit, and a preempted one",
    cause="SIGUSR2, then SIGTERM, to its tasks; a stand-in for Slurm starts it again",
    lost=SAME,
)
@pytest.mark.slow
def test_a_job_is_queued_again_and_ends_as_an_undisturbed_run(images, tmp_path, cluster, capfd):
    run, straight = tmp_path / "run", tmp_path / "straight"
    code, said, error = submit(words(images, run, **asked(2)), capfd)
    assert code == 0, error
    assert re.fullmatch(r"job 1 is queued; it prints to \S+/run/slurm and .*\n", said)
    job = cluster / "jobs" / "1"
    for end in (lambda: stand_in.send(job, signal.SIGUSR2), lambda: stand_in.preempt(job)):
        known = set(checkpoints.list_checkpoints(run))
        stand_in.wait_until(lambda k=known: set(checkpoints.list_checkpoints(run)) - k, job)
        lives = lives_of(job)
        end()
        stand_in.wait_until(lambda n=lives: lives_of(job) > n, job)
    stand_in.wait_until(lambda: stand_in.ended(job), job)
    assert stand_in.state(job) == "COMPLETED"
    assert lives_of(job) == 3
    assert (run / "log.txt").read_text().count("resuming at step") == 2
    finish(start(words(images, straight, **LONG), torchrun(2)))
    assert_equal_states(last_checkpoint(straight), last_checkpoint(run))


def test_the_job_asks_for_what_the_config_says(images, tmp_path, cluster, capfd):
    changes = asked(
        2,
        SLURM__PARTITION="gpu",
        SLURM__HOURS=1.5,
        SLURM__OPTIONS="account=vision --mail-user=me cpus-per-task=2",
        DATA__NUM_WORKERS=3,
        DEVICE="auto",
    )
    code, _, error = submit(words(images, tmp_path / "run", **changes), capfd)
    assert code == 0, error
    script = (cluster / "jobs" / "1" / "script").read_text()
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines()}
    assert lines >= {
        "partition=gpu",
        "nodes=1",
        "ntasks-per-node=2",
        "gpus-per-node=2",
        "cpus-per-task=2",
        "time=90",
        "signal=USR2@180",
        "requeue",
        "account=vision",
        "mail-user=me",
        "job-name=run",
    }
    assert "--cpus-per-task=4" not in script  # an option replaces what would be asked for
    assert slurm.CPUS_FOR_SRUN in script.splitlines()
    code, _, error = submit(words(images, tmp_path / "run", **changes), capfd)
    assert code == 2
    assert re.fullmatch(r"error: .*/run: job 1 of this run is queued or runs; scancel 1\n", error)


@pytest.mark.parametrize(
    ("signals", "waits"),
    [
        (("SIGINT", "SIGTERM"), True),
        (("SIGINT",), False),
        (("SIGTERM", "SIGUSR2"), False),
        ((), True),
    ],
)
def test_a_saved_job_is_queued_again_by_the_signal_of_the_time_limit_or_has_failed(
    monkeypatch, signals, waits
):
    def saved():
        raise Interrupted("saved", signals)

    received, waited = [], []
    monkeypatch.setattr(slurm.time, "sleep", waited.append)
    before = signal.signal(signal.SIGUSR2, lambda number, _: received.append(number))
    queued_again = "SIGUSR2" in signals
    try:
        with contextlib.nullcontext() if queued_again else pytest.raises(Interrupted):
            slurm.Job(saved, distributed=False)()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert received == [signal.SIGUSR2] * queued_again
    assert waited == [slurm.LONGEST_GRACE] * waits


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM__OPTIONS": "account"}, r"SLURM\.OPTIONS: 'account' is not of the form key=value"),
        ({"SLURM__PROCESSES": 3}, r"no multiple of 2 images on 3 processes"),
    ],
)
def test_bad_resources_are_refused_before_anything_is_queued(
    images, tmp_path, cluster, capfd, changes, message
):
    code, _, error = submit(words(images, tmp_path / "run", **asked(**changes)), capfd)
    assert code == 2
    assert re.fullmatch(rf"error: .*{message}.*\n", error)
    assert not (cluster / "jobs").exists()


def test_a_cluster_that_lacks_commands_or_refuses_is_told_in_one_line(
    images, tmp_path, cluster, capfd, monkeypatch
):
    monkeypatch.setenv("PATH", f"{cluster}{os.pathsep}/usr/bin{os.pathsep}/bin")
    arguments = words(images, tmp_path / "run", **asked())
    (cluster / "sbatch").write_text(
        "#!/bin/sh\n"
        "echo 'sbatch: error: invalid partition: x' >&2\n"
        "echo 'sbatch: error: Batch job submission failed' >&2\n"
        "exit 1\n"
    )
    assert submit(arguments, capfd)[::2] == (
        2,
        "error: --slurm: sbatch refuses the job: sbatch: error: invalid partition: x "
        "sbatch: error: Batch job submission failed\n",
    )
    assert slurm.queued_ids() == set()
    squeue = cluster / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n")
    with pytest.raises(ConfigError, match=r"--x: squeue does not say .*: slurm_load_jobs error"):
        slurm.queued_ids("--x")
    (cluster / "sbatch").unlink()
    code, _, error = submit(arguments, capfd)
    assert code == 2
    assert re.fullmatch(r"error: --slurm: there is no sbatch here; submit from a login .*\n", error)
