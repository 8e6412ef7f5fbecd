"""What lies in the folder of a cell, whether it is done or not."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.runner.state import STATE, last_lines, read_json
from benchmarks.tables.results import METRICS, CellName, Data, Folder, Result
from pretrain.runtime.config import flatten

DONE, FAILED, UNFINISHED, MISSING = "done", "failed", "unfinished", "missing"
LOG = "stdout.log"
LOG_LINES = 10
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time


@dataclass(frozen=True, eq=False)
class Cell:
    """One fine-tuning of the matrix; ``result`` where it is done.

    problem: what is wrong with its metrics.json, or why the last attempt failed.
    """

    init: str
    task: str
    seed: int
    folder: Path
    state: str
    result: Result | None
    problem: str

    @property
    def name(self) -> str:
        """``clove/coco_fpn/seed0``, as its folder is called."""
        return str(CellName(self.init, self.task, self.seed))

    @property
    def record(self) -> dict[str, Any]:
        """All of ``metrics.json``; before that is there, what is known of the run."""
        if self.state == DONE:
            return read_json(self.folder / METRICS)
        record = read_json(self.folder / "provenance.json")
        return record.pop("run", {}) | record

    @property
    def data(self) -> Data | None:
        """What it is run on; None before that was written down."""
        if self.result is not None:
            return self.result.data
        return Data(**self.record["data"]) if "data" in self.record else None

    @property
    def command(self) -> str:
        """What ``run`` started it with; empty where nobody wrote that down."""
        try:
            with open(self.folder / LOG, errors="replace") as log:
                first = log.readline()
        except OSError:
            return ""
        return first.removeprefix("$ ").strip() if first.startswith("$ ") else ""

    @property
    def log(self) -> str:
        """The end of its log, where it is not done."""
        return "\n".join(last_lines(self.folder / LOG, LOG_LINES)) if self.state != DONE else ""

    @property
    def settings(self) -> dict[str, str]:
        """The frozen config, ``{"SOLVER.BASE_LR": "0.02"}``; empty where there is none."""
        try:
            tree = yaml.load((self.folder / "config.yaml").read_text(), YAML_LOADER)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return {key: str(value) for key, value in flatten(tree or {}).items()}


def read_cells(folder: Path, found: Folder) -> list[Cell]:
    """Every cell that ``run`` was asked for or that has a folder, by init, then task and seed."""
    done = {(result.init, result.task, result.seed): result for result in found.results}
    unusable = {path.parent: problem for path, problem in found.problems.items()}
    names = set(found.asked)
    for place in folder.glob("*/*/seed*"):
        number = place.name.removeprefix("seed")
        if place.is_dir() and number.isdecimal():
            names.add(CellName(*place.parts[-3:-1], int(number)))
    cells = []
    for name in names:
        place = folder / str(name)
        state, problem = (DONE, "") if name in done else _begun(place)
        if problem_of_file := unusable.get(Path(str(name))):
            state, problem = FAILED, problem_of_file
        cells.append(Cell(*name, place, state, done.get(name), problem))
    # The order of the config, then the alphabet's
    inits = found.matrix["inits"] if found.matrix else ()
    order = {init: number for number, init in enumerate(inits)}
    cells.sort(key=lambda cell: (order.get(cell.init, len(order)), cell.init, cell.task, cell.seed))
    return cells


def _begun(folder: Path) -> tuple[str, str]:
    """State of a cell without metrics.json, and why its last attempt failed, if it did."""
    state = read_json(folder / STATE)
    if state.get("outcome") == "failed":
        return FAILED, state["reason"]
    begun = any((folder / name).is_file() for name in (STATE, LOG, "config.yaml"))
    return UNFINISHED if begun else MISSING, ""


def differences(settings: Mapping[str, str], base: Mapping[str, str]) -> str:
    """Lines ``KEY: value (there: value)`` for what is not as in ``base``."""
    nothing = "not set"
    return "\n".join(
        f"{key}: {settings.get(key, nothing)} (there: {base.get(key, nothing)})"
        for key in {**base, **settings}
        if settings.get(key) != base.get(key)
    )


def as_lines(tree: Mapping[str, Any]) -> str:
    """``KEY value`` lines, numbers in full."""
    return "\n".join(f"{key} {value}" for key, value in flatten(dict(tree)).items())
