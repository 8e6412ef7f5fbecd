"""The matrix as Slurm jobs: a stand-in for Slurm on PATH, and one for what the stages run."""

import signal

import pytest
import yaml

from benchmarks.__main__ import main
from benchmarks.runner.matrix import load_matrix
from benchmarks.runner.slurm import job_of
from pretrain.runtime.files import write_json
from tests import slurm as stand_in
from tests.benchmarks.runner.bench import RANDOM, with_checkpoint

SLURM = {"all": {"partition": "gpu", "gpus": 0, "cpus": 2, "hours": 1.5, "options": "account=x"}}


def with_slurm(bench, **tree):
    bench.write(**yaml.safe_load(bench.config.read_text()) | {"slurm": SLURM} | tree)


def submit(bench) -> int:
    return bench.run("--executor", "slurm")


def wait_for_all(cluster):
    """Until no job waits or runs; their states."""
    jobs = sorted(stand_in.jobs(cluster).glob("*"))
    for job in jobs:
        stand_in.wait_until(lambda j=job: stand_in.state(j) not in ("PENDING", "RUNNING"), job)
    return {job.name: stand_in.state(job) for job in jobs}


def script(cluster, job):
    return (stand_in.jobs(cluster) / job / "script").read_text()


@pytest.mark.slow
def test_jobs_wait_for_each_other_and_fill_the_matrix(bench, cluster):
    with_checkpoint(bench)
    with_slurm(bench, seeds=[0, 1], slurm=SLURM | {"coco_fpn": {"hours": 3, "gpus": 2}})
    assert submit(bench) == 0
    assert set(wait_for_all(cluster).values()) == {"COMPLETED"}
    assert len(list(bench.output.glob("*/*/*/metrics.json"))) == 8
    assert bench.calls("clove/coco_c4/seed1") == 1
    assert bench.calls("clove/coco_fpn/seed1") == 2  # by torchrun
    assert (bench.output / "clove" / "backbone.pth").read_text() == "converted weights"
    convert, c4, fpn = script(cluster, "1"), script(cluster, "2_0"), script(cluster, "4_1")
    assert "--dependency" not in convert
    assert "--array" not in convert
    for text, lines in {
        convert: ("job-name=clove-convert", "cpus-per-task=2", "account=x", "partition=gpu"),
        c4: ("job-name=clove-coco_c4", "dependency=afterok:1", "time=90", "signal=USR2@180"),
        fpn: ("time=180", "gpus-per-node=2", "kill-on-invalid-dep=yes", "requeue"),
    }.items():
        for line in lines:
            assert f"#SBATCH --{line}\n" in text
    submitted = list(stand_in.jobs(cluster).glob("*"))
    assert submit(bench) == 0  # nothing is left to do
    assert list(stand_in.jobs(cluster).glob("*")) == submitted


@pytest.mark.slow
def test_a_cell_at_its_time_limit_is_saved_queued_again_and_goes_on(bench, cluster, capfd):
    bench.write(inits={"a": RANDOM}, tasks=["coco_c4"], slurm=SLURM)
    bench.order(a="wait")
    assert submit(bench) == 0
    job, cell = stand_in.jobs(cluster) / "1", bench.output / "a" / "coco_c4" / "seed0"
    stand_in.wait_until((cell / "started").exists, job)
    capfd.readouterr()
    assert main(["status", str(bench.output)]) == 0
    assert "1 running" in capfd.readouterr().out
    assert submit(bench) == 0  # it is in the queue: nothing is queued twice
    assert [path.name for path in stand_in.jobs(cluster).glob("*")] == ["1"]
    bench.write(inits={"a": RANDOM}, tasks=["coco_c4"], slurm=SLURM, overrides={"SOLVER.STEPS": 1})
    assert submit(bench) == 2
    assert "coco_c4/seed0: SOLVER.STEPS 1 (before: the default), and it runs; stop it" in (
        capfd.readouterr().err
    )
    stand_in.send(job, signal.SIGUSR2)
    assert wait_for_all(cluster) == {"1": "COMPLETED"}
    assert (cell / "saved").exists()
    assert (cell / "metrics.json").exists()
    assert bench.calls("a/coco_c4/seed0") == 2
    assert (job / "lives").read_text() == "xx"


@pytest.mark.slow
def test_a_failed_conversion_lets_its_cells_leave_the_queue_and_no_others(bench, cluster, capfd):
    with_checkpoint(bench, "bad")
    with_slurm(bench, retries=1)
    assert submit(bench) == 0
    states = wait_for_all(cluster)
    assert states.pop("1").startswith("FAILED")
    assert states == {"2": "CANCELLED", "3": "COMPLETED", "4": "CANCELLED", "5": "COMPLETED"}
    log = (bench.output / "clove" / "convert.log").read_text()
    assert log.count("$ ") == 2  # tried again
    state = bench.state("clove")
    assert state["outcome"] == "failed"
    assert state["reason"].startswith("exit code 1 after ")
    assert state["last_lines"][-1] == "truncated"
    with_checkpoint(bench, "good")
    with_slurm(bench)
    assert submit(bench) == 0
    assert set(list(wait_for_all(cluster).values())[5:]) == {"COMPLETED"}


def test_status_tells_what_is_queued_from_what_is_not(bench, cluster, capsys):
    bench.write(inits={"a": RANDOM, "b": RANDOM}, tasks=["coco_c4"], slurm=SLURM)
    write_json(bench.output / "matrix.json", load_matrix(bench.config).summary())
    for name, job_id in (("a/coco_c4/seed0", "7_0"), ("b/coco_c4/seed0", "7_1")):
        write_json(job_of(bench.output, name), {"id": job_id, "command": []})
    (cluster / "squeue").write_text("#!/bin/sh\necho 7_0\n")
    assert main(["status", str(bench.output)]) == 0
    said = capsys.readouterr().out
    assert "| a    |          |         | q       |" in said
    assert "| b    |          |         | w       |" in said
    assert "d, r, q, f, w: done, running, queued, failed, waiting. Cells: 0 done, 0 run" in said


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        (None, "slurm is missing: what --executor slurm asks for"),
        ({"all": {"hours": 0.05}}, "hours 0.05 is no time to work in"),
        ({"coco_c4": {"gpus": "8"}}, "slurm: coco_c4: gpus: '8' is not a whole number"),
    ],
)
def test_bad_resources_are_refused_before_anything_is_queued(
    bench, cluster, capsys, slurm, message
):
    bench.write(inits={"a": RANDOM}, slurm=slurm)
    assert submit(bench) == 2
    assert message in capsys.readouterr().err
    assert not bench.output.exists()
