"""``python -m benchmarks status``: what of a matrix is done, runs, has failed or waits."""

from collections import Counter
from pathlib import Path

from benchmarks.markdown import grid
from benchmarks.matrix import CONVERT, PRETRAIN
from benchmarks.sources import read_json
from benchmarks.stages import is_locked, lock_of
from pretrain.runtime.config import ConfigError

DONE, RUNNING, FAILED, WAITING = "done", "running", "failed", "waiting"


def state(output: Path, name: str, log: Path, done: bool) -> str:
    """Of the stage of that name, from what it leaves and holds."""
    if done:
        return DONE
    if is_locked(lock_of(output, name)):
        return RUNNING
    return FAILED if log.with_suffix(".failed").exists() else WAITING


def status(output: Path) -> str:
    """A table of inits and tasks, a letter for each seed, and how many there are of each."""
    matrix = read_json(output / "matrix.json")
    if not {"inits", "tasks", "seeds"} <= matrix.keys():
        raise ConfigError(f"{output}: no matrix.json of python -m benchmarks run")
    counts: Counter[str] = Counter()
    rows = []
    for init, entry in matrix["inits"].items():
        row = [init]
        for stage in (PRETRAIN, CONVERT):
            row.append(_stage(output, init, stage)[0] if stage in entry["stages"] else "")
        for task in matrix["tasks"]:
            states = [_cell(output, init, task, seed) for seed in matrix["seeds"][task]]
            counts.update(states)
            row.append("".join(state[0] for state in states))
        rows.append(row)
    known = (DONE, RUNNING, FAILED, WAITING)
    total = ", ".join(f"{counts[name]} {name}" for name in known)
    head = ["init", PRETRAIN, CONVERT, *matrix["tasks"]]
    return f"{grid([head, *rows])}\n\nd, r, f, w: done, running, failed, waiting. Cells: {total}"


def _stage(output: Path, init: str, stage: str) -> str:
    folder = output / init
    if stage == PRETRAIN:
        done = read_json(folder / PRETRAIN / "request.json").get("done") is True
    else:
        done = (folder / "source.json").exists() and (folder / "backbone.pth").exists()
    return state(output, f"{init}/{stage}", folder / f"{stage}.log", done)


def _cell(output: Path, init: str, task: str, seed: int) -> str:
    folder = output / init / task / f"seed{seed}"
    name = f"{init}/{task}/seed{seed}"
    return state(output, name, folder / "stdout.log", (folder / "metrics.json").is_file())
