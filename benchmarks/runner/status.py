"""``python -m benchmarks status``: what of a matrix is done, runs, is queued, failed or waits."""

import shutil
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from benchmarks.runner.matrix import CONVERT, PRETRAIN
from benchmarks.runner.slurm import job_of
from benchmarks.runner.state import DONE, FAILED, MATRIX, METRICS, STATE, is_locked, read_json
from benchmarks.tables.markdown import grid
from benchmarks.tables.results import CellName
from pretrain.runtime import slurm
from pretrain.runtime.config import ConfigError

RUNNING, QUEUED, WAITING = "running", "queued", "waiting"


def status(output: Path) -> str:
    """A table of inits and tasks, a letter for each seed, and how many there are of each.

    Where there is a squeue, a stage in the queue is told from one that is not. Raises ConfigError
    for a folder that ``run`` has not written to, and where squeue fails.
    """
    matrix = read_json(output / MATRIX)
    if not {"inits", "tasks", "seeds"} <= matrix.keys():
        raise ConfigError(f"{output}: no {MATRIX} of python -m benchmarks run")
    has_queue = shutil.which("squeue") is not None
    jobs = slurm.queued_ids("status") if has_queue else set()
    known = (DONE, RUNNING, *([QUEUED] if has_queue else []), FAILED, WAITING)
    counts: Counter[str] = Counter()
    rows = [["init", PRETRAIN, CONVERT, *matrix["tasks"]]]
    for init, entry in matrix["inits"].items():
        row = [init]
        for stage, folder in ((PRETRAIN, f"{init}/{PRETRAIN}"), (CONVERT, init)):
            word = _word(output, f"{init}/{stage}", folder, jobs)
            row.append(word[0] if stage in entry["stages"] else "")
        for task in matrix["tasks"]:
            names = [str(CellName(init, task, seed)) for seed in matrix["seeds"][task]]
            words = [_word(output, name, name, jobs) for name in names]
            counts.update(words)
            row.append("".join(word[0] for word in words))
        rows.append(row)
    total = ", ".join(f"{counts[name]} {name}" for name in known)
    letters = ", ".join(name[0] for name in known)
    return f"{grid(rows)}\n\n{letters}: {', '.join(known)}. Cells: {total}"


def _word(output: Path, name: str, folder: str, jobs: Collection[str]) -> str:
    """For the stage of that name; jobs: the ids in Slurm's queue."""
    # A result says more than a state file: it may come from elsewhere, or be set aside
    is_cell, outcome = name.count("/") == 2, read_json(output / folder / STATE).get("outcome")
    if (output / folder / METRICS).is_file() if is_cell else outcome == DONE:
        return DONE
    if is_locked(output, name):
        return RUNNING
    if read_json(job_of(output, name)).get("id") in jobs:
        return QUEUED
    return FAILED if outcome == FAILED else WAITING
