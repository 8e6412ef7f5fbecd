"""Reads ``published.yaml``: the tasks, their metrics, and the values that other papers report."""

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
    return {name: _task(name, entry, f"{path}: {name}") for name, entry in tasks.items()}


def _task(name: str, entry: Any, where: str) -> TaskInfo:
    keys = ("title", "metrics", "main_metric")
    optional = ("protocol", "schedule", "protocols", "published")
    check_keys(entry, where, (*keys, *optional), required=keys)
    metrics = tuple(entry["metrics"])
    check_choice(entry["main_metric"], where, "main metric", metrics)
    letters = entry.get("protocols") or {}
    if entry.get("protocol") is not None:
        check_choice(entry["protocol"], where, "protocol", letters)
    schedule = entry.get("schedule")
    if schedule is not None:
        keys = ("iterations", "images_per_batch")
        schedule = Schedule(**check_keys(schedule, f"{where}: schedule", keys, required=keys))
    sources = entry.get("published") or {}
    if not isinstance(sources, dict) or not all(isinstance(r, list) for r in sources.values()):
        raise ConfigError(f"{where}: published: expected a list of rows below each source's name")
    rows = tuple(
        _row(row, metrics, letters, source, f"{where}: {source}: row {number}")
        for source, entries in sources.items()
        for number, row in enumerate(entries, start=1)
    )
    return TaskInfo(
        name=name,
        title=entry["title"],
        metrics=metrics,
        main_metric=entry["main_metric"],
        protocol=entry.get("protocol"),
        schedule=schedule,
        protocols=letters,
        rows=rows,
    )


def _row(
    row: Any, metrics: tuple[str, ...], letters: dict[str, str], source: str, where: str
) -> PublishedRow:
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
        if not fits or not all(isinstance(number, float) for number in numbers):
            raise ConfigError(
                f"{where}: values: {group}: expected a list of numbers like 41.0 for "
                f"{', '.join(names)}, of which the last may be missing; found {numbers}"
            )
        values |= dict(zip(names, numbers, strict=False))
    letter = row["protocol"]
    own = letter if isinstance(letter, dict) else dict.fromkeys(groups, letter)
    check_keys(own, f"{where}: protocol", groups, required=groups)
    for one in own.values():
        check_choice(one, where, "protocol", letters)
    return PublishedRow(
        method=check_choice(row["method"], where, "method", METHODS),
        epochs=check_epochs(row.get("epochs"), where),
        values=values,
        protocols={metric: own[group_of(metric)] for metric in values},
        source=source,
        remark=row.get("remark", ""),
    )
