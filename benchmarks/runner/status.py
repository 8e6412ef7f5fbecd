"""``python -m benchmarks status``: what of a matrix is done, runs, is queued, failed or waits."""

import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from benchmarks.runner.matrix import CONVERT, PRETRAIN
from benchmarks.runner.slurm import job_of
from benchmarks.runner.state import DONE, FAILED, STATE, is_locked, read_json
from benchmarks.tables.markdown import grid
from pretrain.runtime import slurm
from pretrain.runtime.config import ConfigError

RUNNING, QUEUED, WAITING = "running", "queued", "waiting"


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
        for stage, folder in ((PRETRAIN, f"{init}/{PRETRAIN}"), (CONVERT, init)):
            outcome = read_json(output / folder / STATE).get("outcome")
            word = _word(output, f"{init}/{stage}", outcome, jobs)
            row.append(word[0] if stage in entry["stages"] else "")
        for task in matrix["tasks"]:
            names = [f"{init}/{task}/seed{seed}" for seed in matrix["seeds"][task]]
            words = [_word(output, name, _outcome(output / name), jobs) for name in names]
            counts.update(words)
            row.append("".join(word[0] for word in words))
        rows.append(row)
    total = ", ".join(f"{counts[name]} {name}" for name in known)
    letters, words = ", ".join(name[0] for name in known), ", ".join(known)
    head = ["init", PRETRAIN, CONVERT, *matrix["tasks"]]
    return f"{grid([head, *rows])}\n\n{letters}: {words}. Cells: {total}{problem}"


def _outcome(cell: Path) -> str | None:
    """Of a cell, whose result says more than its state file."""
    if (cell / "metrics.json").is_file():
        return DONE
    outcome = read_json(cell / STATE).get("outcome")
    return None if outcome == DONE else outcome


def _word(output: Path, name: str, outcome: str | None, jobs: Collection[str]) -> str:
    """For the stage of that name; jobs: the ids in Slurm's queue."""
    if outcome == DONE:
        return DONE
    if is_locked(output, name):
        return RUNNING
    if read_json(job_of(output, name)).get("id") in jobs:
        return QUEUED
    return FAILED if outcome == FAILED else WAITING
