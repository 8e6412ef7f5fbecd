"""Reads ``published.yaml``: the tasks, their metrics, and the values that other papers report."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checks import check_choice, check_epochs, check_keys
from pretrain.runtime.config import ConfigError, load_yaml

PUBLISHED_YAML = Path(__file__).with_name("published.yaml")

METHODS = (
    "clove",
    "random",
    "supervised",
    "supervised_msra",
    "pixpro",
    "densecl",
    "resim",
    "detco",
    "slotcon",
    "vicregl",
    "inscon",
    "setsim",
    "moco",
    "swav",
    "dino",
    "soco",
)


@dataclass(frozen=True)
class Schedule:
    """How long a protocol trains."""

    iterations: int
    images_per_batch: int


@dataclass(frozen=True)
class PublishedRow:
    """What one source prints for one method on one task."""

    method: str
    epochs: int | float | None
    values: dict[str, float]  # of the metrics that the source prints
    protocols: dict[str, str]  # metric -> letter
    source: str
    remark: str


@dataclass(frozen=True)
class TaskInfo:
    """What a table needs to know of a task; transfer.tasks.TASKS says the rest."""

    name: str
    title: str
    metrics: tuple[str, ...]
    main_metric: str
    protocol: str | None = None  # the letter that configs/transfer follows
    schedule: Schedule | None = None  # of that protocol
    config_sha256: str | None = None  # of the task's config there: known where the protocol is
    protocols: dict[str, str] | None = None  # letter -> what it means
    rows: tuple[PublishedRow, ...] = ()


def group_of(metric: str) -> str:
    """``bbox`` for ``bbox/AP50``."""
    return metric.partition("/")[0]


def by_group(metrics: Iterable[str]) -> dict[str, list[str]]:
    """The metrics by what they measure: ``{"bbox": ["bbox/AP", ...], "segm": [...]}``."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(group_of(metric), []).append(metric)
    return groups


def load_published(path: str | Path = PUBLISHED_YAML) -> dict[str, TaskInfo]:
    """The tasks of ``path`` in its order, which is the order of the tables."""
    tasks = check_keys(load_yaml(path), str(path), ("tasks",), required=("tasks",))["tasks"]
    if not isinstance(tasks, dict):
        raise ConfigError(f"{path}: tasks: expected a mapping of task names, found {tasks!r}")
    for name in tasks:
        _check_text(name, f"{path}: tasks")
    return {name: _task(name, entry, f"{path}: {name}") for name, entry in tasks.items()}


def _task(name: str, entry: Any, where: str) -> TaskInfo:
    keys = ("title", "metrics", "main_metric")
    optional = ("protocol", "schedule", "config_sha256", "protocols", "published")
    check_keys(entry, where, (*keys, *optional), required=keys)
    metrics, letters = entry["metrics"], entry.get("protocols") or {}
    if not isinstance(metrics, list):
        raise ConfigError(f"{where}: metrics: expected a list of names, found {metrics!r}")
    if not isinstance(letters, dict):
        raise ConfigError(f"{where}: protocols: expected a meaning for each letter")
    sources = entry.get("published") or {}
    if not isinstance(sources, dict) or not all(isinstance(r, list) for r in sources.values()):
        raise ConfigError(f"{where}: published: expected a list of rows below each source's name")
    for key, texts in (
        ("title", [entry["title"]]),
        ("metrics", metrics),
        ("protocols", [*letters, *letters.values()]),
        ("published", sources),
    ):
        for text in texts:
            _check_text(text, f"{where}: {key}")
    check_choice(entry["main_metric"], where, "main metric", metrics)
    if entry.get("protocol") is not None:
        check_choice(entry["protocol"], where, "protocol", list(letters))
        if not isinstance(sha256 := entry.get("config_sha256"), str):
            raise ConfigError(
                f"{where}: config_sha256 is {sha256!r}; give that of the config which runs "
                f"protocol {entry['protocol']}, as metrics.json has it"
            )
    rows = tuple(
        _row(row, metrics, list(letters), source, f"{where}: {source}: row {number}")
        for source, entries in sources.items()
        for number, row in enumerate(entries, start=1)
    )
    return TaskInfo(
        name=name,
        title=entry["title"],
        metrics=tuple(metrics),
        main_metric=entry["main_metric"],
        protocol=entry.get("protocol"),
        schedule=_schedule(entry.get("schedule"), f"{where}: schedule"),
        config_sha256=entry.get("config_sha256"),
        protocols=letters,
        rows=rows,
    )


def _check_text(value: Any, where: str) -> None:
    if not (isinstance(value, str) and value):
        raise ConfigError(f"{where}: expected text, found {value!r}")


def _schedule(entry: Any, where: str) -> Schedule | None:
    if entry is None:
        return None
    keys = ("iterations", "images_per_batch")
    schedule = check_keys(entry, where, keys, required=keys)
    for key, value in schedule.items():
        if not (isinstance(value, int) and value > 0):
            raise ConfigError(f"{where}: {key} is {value!r}, not a positive whole number")
    return Schedule(**schedule)


def _row(row: Any, metrics: list[str], letters: list[str], source: str, where: str) -> PublishedRow:
    keys = ("method", "epochs", "protocol", "values", "remark")
    check_keys(row, where, keys, required=("method", "protocol", "values"))
    groups = by_group(metrics)
    values = {}
    printed = check_keys(row["values"], f"{where}: values", groups)
    for group, names in groups.items():
        if group not in printed:
            raise ConfigError(f"{where}: values: {group} is missing (null: none is printed)")
        numbers = printed[group]
        if numbers is None:
            continue
        fits = isinstance(numbers, list) and 0 < len(numbers) <= len(names)
        if not fits or not all(isinstance(n, float) and math.isfinite(n) for n in numbers):
            raise ConfigError(
                f"{where}: values: {group}: expected a list of numbers like 41.0 for "
                f"{', '.join(names)}, of which the last may be missing; found {numbers}"
            )
        values |= dict(zip(names, numbers, strict=False))
    if not values:
        raise ConfigError(f"{where}: values: every group is null; leave the row out")
    letter = row["protocol"]
    own = letter if isinstance(letter, dict) else dict.fromkeys(groups, letter)
    check_keys(own, f"{where}: protocol", groups, required=groups)
    for one in own.values():
        check_choice(one, where, "protocol", letters)
    remark = row.get("remark")
    if remark is not None:
        _check_text(remark, f"{where}: remark")
    return PublishedRow(
        method=check_choice(row["method"], where, "method", METHODS),
        epochs=check_epochs(row.get("epochs"), where),
        values=values,
        protocols={metric: own[group_of(metric)] for metric in values},
        source=source,
        remark=remark or "",
    )
