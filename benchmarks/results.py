"""Reads what ``run`` leaves: the ``metrics.json`` of finished cells, trusting none of them."""

import itertools
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.published import METHODS, Schedule, TaskInfo
from pretrain.runtime.config import nearest

FORMAT = 1
METRICS = "metrics.json"  # its presence means done
PLACE = f"<init>/<task>/seed<k>/{METRICS}"

LARGEST = 1e100  # its square is a number, too; NaN and infinity are not below it
NUMBER, COUNT, TEXT, MAPPING = "a number", "a whole number from 0 on", "text", "a mapping"
FIELDS = {
    "task": TEXT,
    "init": TEXT,
    "method": TEXT,
    "pretrain_epochs": NUMBER,
    "seed": COUNT,
    "main_metric": TEXT,
    "metrics": MAPPING,
    "data": MAPPING,
    "data.name": TEXT,
    "data.train_images": COUNT,
    "data.test_images": COUNT,
    "data.sha256": TEXT,
    "weights_sha256": TEXT,
    "config_sha256": TEXT,
    "iterations": COUNT,
    "images_per_batch": COUNT,
    "seconds": NUMBER,
    "hardware": TEXT,
    "git_commit": TEXT,
}
MAY_BE_NULL = ("pretrain_epochs", "weights_sha256")  # random weights have neither


class ResultError(ValueError):
    """A file that cannot be used; the message names the field and what is wrong."""


class CorruptError(ResultError):
    """A metrics.json whose content is not that of a result, wherever it lies."""


class CellName(NamedTuple):
    """A fine-tuning that was asked for."""

    init: str
    task: str
    seed: int

    def __str__(self) -> str:
        return f"{self.init}/{self.task}/seed{self.seed}"


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
    """One finished cell."""

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

    @property
    def schedule(self) -> Schedule:
        """What must be a protocol's own before its published values compare."""
        return Schedule(self.iterations, self.images_per_batch)

    @property
    def recipe(self) -> tuple:
        """What the seeds of one init must share to be averaged."""
        # Random weights follow from the seed: theirs may differ.
        weights = None if self.method == "random" else self.weights_sha256
        return (self.method, self.pretrain_epochs, weights, self.config_sha256)


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
            result = read_result(path, place.parts)
            _check_metrics(result, tasks.get(result.task))
            results.append(result)
        except ResultError as error:
            problems[place] = str(error)
            if quarantine and isinstance(error, CorruptError):
                try:
                    _set_aside(path)
                    del problems[place]  # it is found again below
                except OSError as refused:
                    problems[place] += f" (and not renamed: {refused})"
    for path in sorted(folder.rglob(f"{METRICS}.bad-*")):
        if not path.with_name(METRICS).exists():
            place = path.relative_to(folder)
            problems[place] = _why_bad(path, place.with_name(METRICS).parts)
    return results, problems


def _set_aside(path: Path) -> None:
    """Never over another one, and never deleted: a newer version may be able to read it."""
    names = (path.with_name(f"{path.name}.bad-{number}") for number in itertools.count(1))
    path.rename(next(name for name in names if not name.exists()))


def _why_bad(path: Path, place: tuple[str, ...]) -> str:
    """What is said of a file that was set aside until its cell has a metrics.json again."""
    try:
        read_result(path, place)
    except ResultError as error:
        return f"{error} (set aside: `python -m benchmarks run` runs this cell again)"
    return f"set aside, but readable now: rename it to {METRICS} to have it collected"


def read_result(path: Path, place: tuple[str, ...]) -> Result:
    """The result in ``path``, which lies at ``place`` below the results' folder."""
    values = _fields(path)
    cell = (values["init"], values["task"], f"seed{values['seed']}", METRICS)
    if place != cell:
        raise ResultError(f"belongs to {'/'.join(cell)} by its own account (place: {PLACE})")
    if values["method"] not in METHODS:
        raise ResultError(
            f"field method: unknown {values['method']}{nearest(values['method'], METHODS)}"
        )
    data = {key.removeprefix("data."): values.pop(key) for key in FIELDS if key.startswith("data.")}
    return Result(**values | {"data": Data(**data)})


def _fields(path: Path) -> dict[str, Any]:
    """What ``path`` says of each of FIELDS.

    Raises CorruptError where that is not to be had, and ResultError for another version's file.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ResultError(f"not readable: {error}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CorruptError(f"expected {MAPPING}, found {type(content).__name__}")
    found = _field(content, "format", COUNT)
    if found != FORMAT:
        raise ResultError(
            f"field format: {found}, this version reads {FORMAT}; update this checkout"
        )
    values = {name: _field(content, name, kind) for name, kind in FIELDS.items()}
    for name, value in values["metrics"].items():
        if not _is(value, NUMBER):
            found = reprlib.repr(value)
            raise CorruptError(f"field metrics.{name}: expected {NUMBER}, found {found}")
    return values


def _check_metrics(result: Result, task: TaskInfo | None) -> None:
    """Others may be missing: a data set without large objects has no AP of them."""
    for metric in (result.main_metric, *([task.main_metric] if task else [])):
        if metric not in result.metrics:
            raise ResultError(f"field metrics.{metric} is missing")


def _field(content: dict[str, Any], name: str, kind: str) -> Any:
    value: Any = content
    for part in name.split("."):
        if part not in value:
            raise CorruptError(f"field {name} is missing")
        value = value[part]
    if not (_is(value, kind) or (value is None and name in MAY_BE_NULL)):
        raise CorruptError(f"field {name}: expected {kind}, found {reprlib.repr(value)}")
    return value


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str) and value != ""
    if kind == MAPPING:
        return isinstance(value, dict)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if not abs(value) <= LARGEST:
        return False
    return kind == NUMBER or (isinstance(value, int) and value >= 0)


def read_matrix(folder: Path) -> dict[str, Any] | None:
    """What ``run`` was asked for last; None where the cells were run one by one.

    ``seeds`` are lists by task; one list alone, as older versions wrote it, is that of all tasks.
    """
    path = folder / "matrix.json"
    if not path.exists():
        return None
    try:
        matrix = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"not readable: {error}") from error
    if not (isinstance(matrix, dict) and matrix.get("format") == FORMAT):
        raise ResultError("written by another version of python -m benchmarks run")
    inits, tasks, seeds = (matrix.get(key) for key in ("inits", "tasks", "seeds"))
    if not (isinstance(inits, dict) and all(map(_is_init, inits.values()))):
        raise ResultError("field inits: expected a method and epochs for each name")
    if not (isinstance(tasks, list) and all(_is(task, TEXT) for task in tasks)):
        raise ResultError("field tasks: expected a list of names")
    if isinstance(seeds, list):
        seeds = matrix["seeds"] = dict.fromkeys(tasks, seeds)
    if not (isinstance(seeds, dict) and all(_are_seeds(seeds.get(task)) for task in tasks)):
        raise ResultError(f"field seeds: expected a list for each task, each seed {COUNT}")
    return matrix


def _are_seeds(entry: Any) -> bool:
    return isinstance(entry, list) and all(_is(seed, COUNT) for seed in entry)


def _is_init(entry: Any) -> bool:
    if not (isinstance(entry, dict) and {"method", "epochs"} <= entry.keys()):
        return False
    known = entry["method"] in METHODS
    return known and (entry["epochs"] is None or _is(entry["epochs"], NUMBER))


def missing_cells(results: Sequence[Result], matrix: Mapping[str, Any] | None) -> list[CellName]:
    """The cells that ``run`` was asked for and that are not there."""
    if matrix is None:
        return []
    found = {(result.init, result.task, result.seed) for result in results}
    return [cell for cell in asked_cells(matrix) if cell not in found]


def asked_cells(matrix: Mapping[str, Any]) -> list[CellName]:
    """All cells of a matrix."""
    return [
        CellName(init, task, seed)
        for init in matrix["inits"]
        for task in matrix["tasks"]
        for seed in matrix["seeds"][task]
    ]


def with_epochs(result: Result, matrix: Mapping[str, Any] | None) -> Result:
    """The benchmark's YAML knows the epochs of weights that do not say them."""
    asked = matrix["inits"].get(result.init) if matrix else None
    if result.pretrain_epochs is not None or not asked:
        return result
    return replace(result, pretrain_epochs=asked["epochs"])
