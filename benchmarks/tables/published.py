"""Reads ``published.yaml``: the tasks, their metrics, and the values that other papers report."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.config import load_yaml
from transfer.convert import METHODS as CONVERTED

PUBLISHED_YAML = Path(__file__).parents[1] / "published.yaml"

# What an init can be made by: rows stand in the order of the converter's table, but for those
# that others are compared with.
METHODS = tuple(dict.fromkeys(["clove", "random", "supervised", "supervised_msra", *CONVERTED]))


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
    schedule: Mapping[str, int] | None = None  # of that protocol: iterations, images_per_batch
    config_sha256: str | None = None  # of the task's config there: known where the protocol is
    protocols: Mapping[str, str] = field(default_factory=dict)  # letter -> what it means
    rows: tuple[PublishedRow, ...] = ()


def by_group(metrics: Iterable[str]) -> dict[str, list[str]]:
    """The metrics by what they measure: ``{"bbox": ["bbox/AP", ...], "segm": [...]}``."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(metric.partition("/")[0], []).append(metric)
    return groups


@functools.cache
def load_published() -> dict[str, TaskInfo]:
    """The tasks of published.yaml in its order, which is that of the tables; not to be changed."""
    return {
        name: _task(name, **entry) for name, entry in load_yaml(PUBLISHED_YAML)["tasks"].items()
    }


def _task(
    name: str,
    *,
    metrics: list[str],
    published: Mapping[str, list[dict]] | None = None,
    **others: Any,
) -> TaskInfo:
    groups = by_group(metrics)
    return TaskInfo(
        name=name,
        metrics=tuple(metrics),
        rows=tuple(
            _row(groups, source, **row) for source, own in (published or {}).items() for row in own
        ),
        **others,
    )


def _row(
    groups: Mapping[str, list[str]],
    source: str,
    *,
    method: str,
    values: Mapping[str, list[float] | None],
    protocol: str | dict[str, str],
    epochs: float | None = None,
    remark: str = "",
) -> PublishedRow:
    """protocol: one letter, or one for each group of metrics."""
    letters = protocol if isinstance(protocol, dict) else dict.fromkeys(groups, protocol)
    printed, protocols = {}, {}
    for group, numbers in values.items():
        for metric, number in zip(groups[group], numbers or [], strict=False):
            printed[metric], protocols[metric] = number, letters[group]
    return PublishedRow(method, epochs, printed, protocols, source, remark)
