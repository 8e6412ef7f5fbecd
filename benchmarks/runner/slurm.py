"""Submits the stages of a matrix to Slurm, as jobs that wait for each other and save themselves.

Each init's pretraining and conversion are jobs; its cells are arrays, one for each task, that start
once the conversion has succeeded. Nothing needs to stay on the login node.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.runner.local import Local, Slot
from benchmarks.runner.matrix import Matrix
from benchmarks.runner.stages import Stage, logger
from benchmarks.runner.state import lock_of, read_json
from pretrain.runtime import slurm
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_json
from pretrain.runtime.interrupt import InterruptFlag
from pretrain.runtime.logging import setup_logger

FLAG = "--executor slurm"


def check(matrix: Matrix, stages: Sequence[Stage]) -> dict[str, slurm.Resources]:
    """What the jobs ask for, by kind. ConfigError where that is wrong, or there is no Slurm."""
    if not matrix.slurm:
        raise ConfigError(f"{matrix.config}: slurm is missing: what {FLAG} asks for, by stage")
    slurm.require_commands(FLAG)
    return {stage.kind: matrix.resources(stage.kind) for stage in stages}


def submit(
    matrix: Matrix, todo: Sequence[Stage], resources: Mapping[str, slurm.Resources], output: Path
) -> None:
    """Queue what is not queued yet; ``resources``: from ``check``.

    Raises ConfigError where Slurm refuses it, or does not say what is queued.
    """
    queued = slurm.queued_ids(FLAG)
    jobs = {}
    for stage in todo:
        job = read_json(job_of(output, stage.name))
        if job.get("id") in queued:
            if job["command"] != stage.command:
                raise ConfigError(
                    f"{stage.name}: job {job['id']} has another command than the config names "
                    f"now; scancel {job['id']}"
                )
            jobs[stage.name] = job["id"]
    folder = output / "slurm.jobs"  # not the name of an init
    arrays: dict[tuple, list[Stage]] = {}
    for stage in todo:
        if stage.name not in jobs:
            arrays.setdefault((stage.init.name, stage.needs, stage.kind), []).append(stage)
    for (init, needs, kind), array in arrays.items():
        ids = slurm.submit_array(
            [partial(perform, stage, resources[kind].gpus, matrix.retries) for stage in array],
            folder,
            f"{init}-{kind}",
            resources[kind],
            after=jobs.get(needs),
            flag=FLAG,
        )
        for stage, job_id in zip(array, ids, strict=True):
            write_json(job_of(output, stage.name), {"id": job_id, "command": stage.command})
            jobs[stage.name] = job_id
        logger.info("%s/%s: job %s, %d to run", init, kind, ids[0].partition("_")[0], len(ids))
    logger.info(
        "jobs print to %s; python -m benchmarks status %s shows them; scancel ends them; the same "
        "command queues again what is not done",
        folder,
        output,
    )


def perform(stage: Stage, gpus: int, retries: int) -> None:
    """A stage as a job. Raises Interrupted once it is saved, and RuntimeError where it failed,
    so that the jobs that need it do not start."""
    setup_logger("benchmarks")
    with InterruptFlag() as interrupted:
        local = Local([stage], int(stage.is_cell), [Slot(os.environ, gpus)], retries, interrupted)
        local.run()
    if local.report():
        raise RuntimeError(f"{stage.name}: failed, log in {stage.log}")


def job_of(output: Path, name: str) -> Path:
    """The file with the id and the command of the job that a stage was last submitted as."""
    return lock_of(output, name).with_suffix(".job")
