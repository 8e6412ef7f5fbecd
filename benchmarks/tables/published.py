"""Reads ``published.yaml``: the tasks, their metrics, and the values that other papers report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.checks import check_choice, check_epochs, check_keys
from pretrain.runtime.config import ConfigError, load_yaml
from transfer.convert import METHODS as CONVERTED

PUBLISHED_YAML = Path(__file__).parents[1] / "published.yaml"

# What an init can be made by: rows stand in the order of the converter's table, but for those
# that others are compared with.
METHODS = tuple(dict.fromkeys(["clove", "random", "supervised", "supervised_msra", *CONVERTED]))


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


def by_group(metrics: Iterable[str]) -> dict[str, list[str]]:
    """The metrics by what they measure: ``{"bbox": ["bbox/AP", ...], "segm": [...]}``."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(metric.partition("/")[0], []).append(metric)
    return groups


def load_published(path: str | Path = PUBLISHED_YAML) -> dict[str, TaskInfo]:
    """The tasks of ``path`` in its order, which is the order of the tables.

    Raises ConfigError that names the entry for a file that cannot be used: users write their own.
    """
    tasks = check_keys(load_yaml(path), str(path), ("tasks",), required=("tasks",))["tasks"]
    _expect(tasks, dict, f"{path}: tasks", "a mapping of task names")
    return {name: _task(name, entry, f"{path}: {name}") for name, entry in tasks.items()}


def _expect(value: Any, kind: type, where: str, expected: str) -> None:
    if not isinstance(value, kind):
        raise ConfigError(f"{where}: expected {expected}, found {value!r}")


def _task(name: str, entry: Any, where: str) -> TaskInfo:
    required = ("title", "metrics", "main_metric")
    known = (*required, "protocol", "schedule", "config_sha256", "protocols", "published")
    check_keys(entry, where, known, required)
    _expect(entry["metrics"], list, f"{where}: metrics", "a list of names")
    task = {"protocols": {}} | entry | {"name": name, "metrics": tuple(map(str, entry["metrics"]))}
    sources = task.pop("published", {})
    _expect(task["protocols"], dict, f"{where}: protocols", "a meaning for each letter")
    _expect(sources, dict, f"{where}: published", "a list of rows below each source's name")
    check_choice(task["main_metric"], where, "main metric", task["metrics"])
    if task.get("protocol") is not None:
        check_choice(task["protocol"], where, "protocol", list(task["protocols"]))
        check_keys(entry, where, known, required=("config_sha256",))  # or nothing ever compares
    if task.get("schedule") is not None:
        counts = ("iterations", "images_per_batch")
        schedule = check_keys(task["schedule"], f"{where}: schedule", counts, required=counts)
        task["schedule"] = Schedule(**schedule)
    rows = []
    for source, own in sources.items():
        _expect(own, list, f"{where}: published: {source}", "a list of rows")
        for number, row in enumerate(own, start=1):
            place = f"{where}: {source}: row {number}"
            rows.append(_row(row, task["metrics"], list(task["protocols"]), str(source), place))
    return TaskInfo(**task, rows=tuple(rows))


def _row(
    row: Any, metrics: Sequence[str], letters: list[str], source: str, where: str
) -> PublishedRow:
    keys = ("method", "epochs", "protocol", "values", "remark")
    check_keys(row, where, keys, required=("method", "protocol", "values"))
    groups, values = by_group(metrics), {}
    printed = check_keys(row["values"], f"{where}: values", groups)
    for group, names in groups.items():
        found = printed.get(group) or []
        # 41 in place of 41.0 would not be shown digit for digit
        fits = isinstance(found, list) and all(isinstance(number, float) for number in found)
        if not fits or len(found) > len(names):
            raise ConfigError(
                f"{where}: values: {group}: expected numbers like 41.0 for {', '.join(names)}, of "
                f"which the last may be missing; found {found}"
            )
        values |= dict(zip(names, found, strict=False))
    if not values:
        raise ConfigError(f"{where}: values: there is none; leave the row out")
    letter = row["protocol"]
    own = letter if isinstance(letter, dict) else dict.fromkeys(groups, letter)
    check_keys(own, f"{where}: protocol", groups, required=groups)
    for one in own.values():
        check_choice(one, where, "protocol", letters)
    return PublishedRow(
        method=check_choice(row["method"], where, "method", METHODS),
        epochs=check_epochs(row.get("epochs"), where),
        values=values,
        protocols={metric: own[metric.partition("/")[0]] for metric in values},
        source=source,
        remark=str(row.get("remark") or ""),
    )
