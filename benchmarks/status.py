"""``python -m benchmarks status``: what of a matrix is done, runs, is queued, failed or waits."""

import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from benchmarks.cluster import job_of
from benchmarks.matrix import CONVERT, PRETRAIN
from benchmarks.sources import read_json
from benchmarks.stages import is_locked, lock_of
from benchmarks.tables.markdown import grid
from pretrain.runtime import slurm
from pretrain.runtime.config import ConfigError

DONE, RUNNING, QUEUED, FAILED, WAITING = "done", "running", "queued", "failed", "waiting"


def state(output: Path, name: str, log: Path, done: bool, jobs: Collection[str]) -> str:
    """Of the stage of that name, from what it leaves and holds; jobs: the ids in Slurm's queue."""
    if done:
        return DONE
    if is_locked(lock_of(output, name)):
        return RUNNING
    if read_json(job_of(output, name)).get("id") in jobs:
        return QUEUED
    return FAILED if log.with_suffix(".failed").exists() else WAITING


def status(output: Path) -> str:
    """A table of inits and tasks, a letter for each seed, and how many there are of each.

    Where there is a squeue, a stage in the queue is told from one that is not. Raises ConfigError
    for a folder that ``run`` has not written to.
    """
    matrix = read_json(output / "matrix.json")
    if not {"inits", "tasks", "seeds"} <= matrix.keys():
        raise ConfigError(f"{output}: no matrix.json of python -m benchmarks run")
    known, jobs, problem = (DONE, RUNNING, FAILED, WAITING), set(), ""
    if shutil.which("squeue") is not None:
        try:
            jobs = slurm.queued_ids("status")
            known = (DONE, RUNNING, QUEUED, FAILED, WAITING)
        except ConfigError as error:
            problem = f"\n{error}"
    counts: Counter[str] = Counter()
    rows = []
    for init, entry in matrix["inits"].items():
        row = [init]
        for stage in (PRETRAIN, CONVERT):
            row.append(_stage(output, init, stage, jobs)[0] if stage in entry["stages"] else "")
        for task in matrix["tasks"]:
            states = [_cell(output, init, task, seed, jobs) for seed in matrix["seeds"][task]]
            counts.update(states)
            row.append("".join(state[0] for state in states))
        rows.append(row)
    total = ", ".join(f"{counts[name]} {name}" for name in known)
    letters, words = ", ".join(name[0] for name in known), ", ".join(known)
    head = ["init", PRETRAIN, CONVERT, *matrix["tasks"]]
    return f"{grid([head, *rows])}\n\n{letters}: {words}. Cells: {total}{problem}"


def _stage(output: Path, init: str, stage: str, jobs: Collection[str]) -> str:
    folder = output / init
    if stage == PRETRAIN:
        done = read_json(folder / PRETRAIN / "request.json").get("done") is True
    else:
        done = (folder / "source.json").exists() and (folder / "backbone.pth").exists()
    return state(output, f"{init}/{stage}", folder / f"{stage}.log", done, jobs)


def _cell(output: Path, init: str, task: str, seed: int, jobs: Collection[str]) -> str:
    folder = output / init / task / f"seed{seed}"
    name, done = f"{init}/{task}/seed{seed}", (folder / "metrics.json").is_file()
    return state(output, name, folder / "stdout.log", done, jobs)
