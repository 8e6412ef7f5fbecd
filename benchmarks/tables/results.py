"""Reads what ``run`` leaves: the ``metrics.json`` of finished cells, and what was asked for."""

import json
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.runner.state import MATRIX, METRICS, read_json
from benchmarks.tables.published import TaskInfo

FORMAT = 1
PLACE = f"<init>/<task>/seed<k>/{METRICS}"


class ResultError(ValueError):
    """A file that cannot be used; the message names the field and what is wrong."""


class CorruptError(ResultError):
    """A metrics.json whose content is not that of a result, wherever it lies."""


class CellName(NamedTuple):
    """A fine-tuning that was asked for."""

    init: str
    task: str
    seed: int

    @property
    def parts(self) -> tuple[str, str, str]:
        """Of its folder's place below that of all results."""
        return (self.init, self.task, f"seed{self.seed}")

    def __str__(self) -> str:
        return "/".join(map(str, self.parts))


@dataclass(frozen=True)
class Data:
    """The fingerprint of a data set; results on two of them never share a table."""

    name: str
    train_images: int
    test_images: int
    sha256: str

    @property
    def official(self) -> bool:
        """Only then do results compare with published ones."""
        return self.name == "official"


@dataclass(frozen=True)
class Result:
    """One finished cell, by the keys of its metrics.json."""

    task: str
    init: str
    method: str
    pretrain_epochs: int | float | None
    seed: int
    main_metric: str
    metrics: dict[str, float]
    data: Data
    weights_sha256: str | None
    config_sha256: str
    iterations: int
    images_per_batch: int
    seconds: float
    hardware: str
    git_commit: str
    depth: int | None  # of the ResNet; None where the file does not say it, as older ones

    @property
    def cell(self) -> CellName:
        """Whose result it is."""
        return CellName(self.init, self.task, self.seed)

    @property
    def recipe(self) -> tuple:
        """What the seeds of one init must share to be averaged."""
        # Random weights follow from the seed: theirs may differ.
        weights = None if self.method == "random" else self.weights_sha256
        return (self.method, self.pretrain_epochs, weights, self.config_sha256)


@dataclass(frozen=True)
class Folder:
    """A folder of results.

    problems: what is wrong with each file that is not a result, by its place.
    matrix: what ``run`` was asked for last; nothing where the cells were run one by one.
    asked: all cells of the matrix.
    """

    results: Sequence[Result]
    problems: Mapping[Path, str] = field(default_factory=dict)
    matrix: Mapping[str, Any] = field(
        default_factory=lambda: {"inits": {}, "tasks": [], "seeds": {}}
    )
    asked: Sequence[CellName] = ()

    @property
    def missing(self) -> list[CellName]:
        """The cells that ``run`` was asked for and that are not there."""
        found = {result.cell for result in self.results}
        return [cell for cell in self.asked if cell not in found]

    def say_problems(self, place: Path) -> int:
        """Print them, of the folder at ``place``; the exit code, which is 0 where there is none."""
        for path, problem in self.problems.items():
            print(f"not collected: {place / path}: {problem}", file=sys.stderr)
        return 1 if self.problems else 0


def read_folder(folder: Path, tasks: Mapping[str, TaskInfo], quarantine: bool = False) -> Folder:
    """All results below ``folder`` and its matrix.json; what cannot be used stops nothing else.

    tasks, quarantine: as for ``read_results``.
    """
    results, problems = read_results(folder, tasks, quarantine)
    matrix = read_json(folder / MATRIX)
    if not matrix:
        return Folder(results, problems)
    inits, names, seeds = (matrix[key] for key in ("inits", "tasks", "seeds"))
    asked = [CellName(i, task, seed) for i in inits for task in names for seed in seeds[task]]
    # The benchmark's YAML knows the epochs of weights that do not say them.
    epochs = {init: entry["epochs"] for init, entry in inits.items()}
    results = [
        replace(result, pretrain_epochs=epochs.get(result.init))
        if result.pretrain_epochs is None
        else result
        for result in results
    ]
    return Folder(results, problems, matrix, asked)


def read_results(
    folder: Path, tasks: Mapping[str, TaskInfo], quarantine: bool = False
) -> tuple[list[Result], dict[Path, str]]:
    """All results below ``folder``, and what is wrong with each file that is not one.

    tasks: what ranks must be there, by their account and by the file's own.
    quarantine: rename what is corrupt to metrics.json.bad-<n>: then its cell counts as not done.
    """
    results, problems = [], {}
    for path in sorted(folder.rglob(METRICS)):
        place = path.relative_to(folder)
        try:
            result = read_result(path, folder)
            if result.task in tasks:
                _check_has(result, tasks[result.task].main_metric)
            results.append(result)
        except ResultError as error:
            if quarantine and isinstance(error, CorruptError):
                # Never over another one, and never deleted: a newer version may be able to read it.
                number = 1 + len(list(path.parent.glob(f"{METRICS}.bad-*")))
                place = place.with_name(f"{METRICS}.bad-{number}")
                path.rename(folder / place)
            problems[place] = str(error)
    # What was set aside is named until its cell has a metrics.json again, or is aside itself.
    for path in sorted(folder.rglob(f"{METRICS}.bad-*")):
        place = path.relative_to(folder)
        if ".stale-" not in path.parent.name and not path.with_name(METRICS).exists():
            said = problems.get(place, "no result")
            problems[place] = f"{said} (set aside: `python -m benchmarks run` runs this cell again)"
    return results, problems


def read_result(path: Path, folder: Path) -> Result:
    """The result in ``path``, in the ``folder`` of all results.

    Raises CorruptError where format, keys or finite numbers are not there, and ResultError for
    another version's file, one of another cell, and one without its own main metric.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ResultError(f"not readable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not readable as JSON: {error}") from error
    try:
        if content["format"] != FORMAT:
            found = reprlib.repr(content["format"])
            kind = ResultError if isinstance(content["format"], int) else CorruptError
            raise kind(f"field format: {found}, this version reads {FORMAT}; update this checkout")
        data = Data(**{key.name: content["data"][key.name] for key in fields(Data)})
        content = {"depth": None} | content
        values = {key.name: content[key.name] for key in fields(Result)}
        result = Result(**values | {"data": data})
        numbers = {f"metrics.{name}": value for name, value in result.metrics.items()}
    except KeyError as error:
        raise CorruptError(f"field {error.args[0]} is missing") from error
    except (TypeError, AttributeError) as error:
        raise CorruptError(f"not the mapping that a result is: {error}") from error
    for name, value in (numbers | {"seed": result.seed, "seconds": result.seconds}).items():
        if not (isinstance(value, int | float) and abs(value) < math.inf):
            found = reprlib.repr(value)
            raise CorruptError(f"field {name}: expected a finite number, found {found}")
        # DensePose's is -1 where nothing was found at all
        if name.rpartition("/")[2].startswith("AP") and not (0 <= value <= 100 or value == -1):
            raise CorruptError(f"field {name}: expected an AP from 0 to 100, found {value}")
    if path.relative_to(folder).parts != (*result.cell.parts, METRICS):
        raise ResultError(f"belongs to {result.cell}/{METRICS} by its own account (place: {PLACE})")
    _check_has(result, result.main_metric)
    return result


def _check_has(result: Result, metric: str) -> None:
    """Others may be missing: a data set without large objects has no AP of them."""
    if metric not in result.metrics:
        raise ResultError(f"field metrics.{metric} is missing")
