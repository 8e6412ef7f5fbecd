"""What lies in the folder of a cell, whether it is done or not."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables.results import Data, Result, asked_cells
from pretrain.runtime.config import flatten

DONE, FAILED, UNFINISHED, MISSING = "done", "failed", "unfinished", "missing"
ENVIRONMENT = ("hardware", "git_commit", "packages")
LOG_BYTES, LOG_LINES = 10_000, 10  # read, and shown
YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a tenth of the time


@dataclass(frozen=True, eq=False)
class Cell:
    """One fine-tuning of the matrix; ``result`` where it is done.

    problem: what is wrong with its metrics.json, or why the last attempt failed.
    log: the end of its log, where it is not done.
    """

    init: str
    task: str
    seed: int
    folder: Path
    state: str
    result: Result | None
    problem: str
    log: str

    @property
    def name(self) -> str:
        """``clove/coco_fpn/seed0``, as its folder is called."""
        return f"{self.init}/{self.task}/seed{self.seed}"

    @property
    def data(self) -> Data | None:
        """What it is run on; None before that was written down."""
        if self.result is not None:
            return self.result.data
        try:
            return Data(**self.record()["data"])
        except (KeyError, TypeError):
            return None

    def command(self) -> str:
        """What ``run`` started it with; empty where nobody wrote that down."""
        try:
            with open(self.folder / "stdout.log", errors="replace") as log:
                first = log.readline()
        except OSError:
            return ""
        return first.removeprefix("$ ").strip() if first.startswith("$ ") else ""

    def settings(self) -> dict[str, str]:
        """The frozen config, ``{"SOLVER.BASE_LR": "0.02"}``; empty where there is none."""
        try:
            tree = yaml.load((self.folder / "config.yaml").read_text(), YAML_LOADER)
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return {key: str(value) for key, value in flatten(tree or {}).items()}

    def record(self) -> dict[str, Any]:
        """All of ``metrics.json``; before that is there, what is known of the run."""
        if self.state == DONE:
            return json.loads((self.folder / "metrics.json").read_text())
        try:
            record = json.loads((self.folder / "provenance.json").read_text())
            return record.pop("run") | record
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def read_cells(
    folder: Path,
    results: Sequence[Result],
    problems: Mapping[Path, str],
    matrix: Mapping[str, Any] | None,
) -> list[Cell]:
    """Every cell that ``run`` was asked for or that has a folder, by init, then task and seed."""
    done = {(result.init, result.task, result.seed): result for result in results}
    unusable = {path.parent: problem for path, problem in problems.items()}
    wanted = dict.fromkeys(asked_cells(matrix) if matrix else ())
    for place in sorted(folder.glob("*/*/seed*")):
        number = place.name.removeprefix("seed")
        if place.is_dir() and number.isdecimal():
            wanted[place.parts[-3], place.parts[-2], int(number)] = None
    cells = []
    for key in wanted:
        place = Path(key[0], key[1], f"seed{key[2]}")
        if key in done:
            state, problem, log = DONE, "", ""
        else:
            state, problem = _begun(folder / place)
            if place in unusable:
                state, problem = FAILED, unusable[place]
            log = _last_lines(folder / place / "stdout.log")
        cells.append(Cell(*key, folder / place, state, done.get(key), problem, log))
    # The order of the config, then the alphabet's
    order = {init: number for number, init in enumerate(matrix["inits"] if matrix else ())}
    cells.sort(key=lambda cell: (order.get(cell.init, len(order)), cell.init, cell.task, cell.seed))
    return cells


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


def _begun(folder: Path) -> tuple[str, str]:
    """State of a cell without metrics.json, and why its last attempt failed, if it did."""
    try:
        return FAILED, json.loads((folder / "stdout.failed").read_text())["reason"]
    except FileNotFoundError:
        begun = any((folder / name).is_file() for name in ("stdout.log", "config.yaml"))
        return UNFINISHED if begun else MISSING, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return FAILED, f"stdout.failed is not readable: {error!r}"


def _last_lines(log: Path) -> str:
    """The end of a log, without reading all of it; empty where there is none."""
    if not log.is_file():
        return ""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-LOG_LINES:])
