"""What lies in the folder of a cell, whether it is done or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.runner.state import LOG, METRICS, STATE, last_lines, read_json
from benchmarks.tables.results import Folder, Result
from pretrain.runtime.config import flatten

DONE, FAILED, UNFINISHED, MISSING = "done", "failed", "unfinished", "missing"
LOG_LINES = 10
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time


@dataclass(frozen=True, eq=False)
class Cell:
    """One fine-tuning of the matrix; ``result`` where it is done.

    problem: what is wrong with its metrics.json, or why the last attempt failed.
    """

    name: str  # ``clove/coco_fpn/seed0``, as its folder is called
    init: str
    task: str
    seed: int
    folder: Path
    state: str
    result: Result | None
    problem: str

    def record(self) -> dict[str, Any]:
        """All of ``metrics.json``; before that is there, what is known of the run."""
        if self.state == DONE:
            return read_json(self.folder / METRICS)
        record = read_json(self.folder / "provenance.json")
        return record.pop("run", {}) | record

    def data(self) -> tuple[str, str] | None:
        """Name and fingerprint of what it is run on; None before that was written down."""
        data = self.record().get("data")
        return (data["name"], data["sha256"]) if data else None

    def command(self) -> str:
        """What ``run`` started it with; empty where nobody wrote that down."""
        log = self.folder / LOG
        first = log.open(errors="replace").readline() if log.is_file() else ""
        return first.removeprefix("$ ").strip() if first.startswith("$ ") else ""

    def log(self) -> str:
        """The end of its log, where it is not done."""
        return "" if self.state == DONE else "\n".join(last_lines(self.folder / LOG, LOG_LINES))

    def settings(self) -> dict[str, str]:
        """The frozen config, ``{"SOLVER.BASE_LR": "0.02"}``; empty where there is none."""
        path = self.folder / "config.yaml"
        tree = yaml.load(path.read_text(), YAML_LOADER) if path.is_file() else None
        return {key: str(value) for key, value in flatten(tree or {}).items()}


def read_cells(folder: Path, found: Folder) -> list[Cell]:
    """Every cell that ``run`` was asked for or that is done, by init, then task and seed."""
    done = {result.cell: result for result in found.results}
    unusable = {str(path.parent): problem for path, problem in found.problems.items()}
    cells = []
    for name in {*found.asked, *done}:
        place = folder / str(name)
        state = read_json(place / STATE)
        if name in done:
            outcome, problem = DONE, ""
        elif str(name) in unusable:
            outcome, problem = FAILED, unusable[str(name)]
        elif state.get("outcome") == "failed":
            outcome, problem = FAILED, state["reason"]
        else:
            outcome, problem = UNFINISHED if place.is_dir() else MISSING, ""
        cells.append(Cell(str(name), *name, place, outcome, done.get(name), problem))
    # The order of the config, then the alphabet's
    order = {init: number for number, init in enumerate(found.matrix["inits"])}
    cells.sort(key=lambda cell: (order.get(cell.init, len(order)), cell.init, cell.task, cell.seed))
    return cells


def as_lines(tree: Mapping[str, Any]) -> str:
    """``KEY value`` lines, numbers in full."""
    return "\n".join(f"{key} {value}" for key, value in flatten(dict(tree)).items())
