"""Reads the ``metrics.json`` of finished cells, trusting none of them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.published import METHODS, Schedule, TaskInfo
from pretrain.runtime.config import nearest

FORMAT = 1
PLACE = "<init>/<task>/seed<k>/metrics.json"

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
    """A metrics.json that cannot be used; the message names the field and what is wrong."""


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
    folder: Path, tasks: Mapping[str, TaskInfo]
) -> tuple[list[Result], dict[Path, str]]:
    """All results below ``folder``, and what is wrong with each file that is not one.

    tasks: what ranks must be there, by their account and by the file's own.
    """
    results, problems = [], {}
    for path in sorted(folder.rglob("metrics.json")):
        place = path.relative_to(folder)
        try:
            result = read_result(path, place.parts)
            _check_metrics(result, tasks.get(result.task))
            results.append(result)
        except ResultError as error:
            problems[place] = str(error)
    return results, problems


def read_result(path: Path, place: tuple[str, ...]) -> Result:
    """The result in ``path``, which lies at ``place`` below the results' folder."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ResultError(f"not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ResultError(f"expected {MAPPING}, found {type(content).__name__}")
    if content.get("format") != FORMAT:
        raise ResultError(f"field format: expected {FORMAT}, found {content.get('format')!r}")
    values = {name: _field(content, name, kind) for name, kind in FIELDS.items()}
    cell = (values["init"], values["task"], f"seed{values['seed']}", "metrics.json")
    if place != cell:
        raise ResultError(f"belongs to {'/'.join(cell)} by its own account (place: {PLACE})")
    if values["method"] not in METHODS:
        raise ResultError(
            f"field method: unknown {values['method']}{nearest(values['method'], METHODS)}"
        )
    for name, value in values["metrics"].items():
        if not _is(value, NUMBER):
            raise ResultError(f"field metrics.{name}: expected {NUMBER}, found {value!r}")
    data = {key.removeprefix("data."): values.pop(key) for key in FIELDS if key.startswith("data.")}
    return Result(**values | {"data": Data(**data)})


def _check_metrics(result: Result, task: TaskInfo | None) -> None:
    """Others may be missing: a data set without large objects has no AP of them."""
    for metric in (result.main_metric, *([task.main_metric] if task else [])):
        if metric not in result.metrics:
            raise ResultError(f"field metrics.{metric} is missing")


def _field(content: dict[str, Any], name: str, kind: str) -> Any:
    value: Any = content
    for part in name.split("."):
        if part not in value:
            raise ResultError(f"field {name} is missing")
        value = value[part]
    if not (_is(value, kind) or (value is None and name in MAY_BE_NULL)):
        raise ResultError(f"field {name}: expected {kind}, found {value!r}")
    return value


def _is(value: Any, kind: str) -> bool:
    if kind == TEXT:
        return isinstance(value, str) and value != ""
    if kind == MAPPING:
        return isinstance(value, dict)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    return kind == NUMBER or (isinstance(value, int) and value >= 0)
