"""Results as tables: per task and data set, a row per init, mean ± std beside published values."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.published import METHODS, PublishedRow, Schedule, TaskInfo, by_group, group_of
from benchmarks.results import Data, Result

# One published row each, whatever the number of epochs.
WITHOUT_EPOCHS = ("random", "supervised")

METRICS_SIDE_BY_SIDE = 3  # each takes two columns; more do not fit a terminal or a page


@dataclass(frozen=True)
class Measured:
    """A metric over the seeds of a row: the sample standard deviation needs two of them."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Row:
    """One init as we measured it, one published row, or both where they are the same method."""

    method: str
    epochs: int | float | None
    init: str | None = None
    seeds: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    wanted: int = 0  # seeds of this init in this table, be they here, in other rows or missing
    measured: Mapping[str, Measured] = field(default_factory=dict)
    schedule: Schedule | None = None  # of what was measured, as is the config
    config_sha256: str | None = None
    published: PublishedRow | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """All that is known of one task on one data set; data is None where no cell is finished."""

    task: TaskInfo
    data: Data | None
    results: tuple[Result, ...]
    rows: tuple[Row, ...]

    @property
    def official(self) -> bool:
        """Whether measured values compare with published ones at all."""
        return self.data is not None and self.data.official

    @property
    def shows_the_road_only(self) -> bool:
        """A network that has learnt next to nothing orders no methods."""
        metric = self.task.main_metric
        values = [result.metrics[metric] for result in self.results if metric in result.metrics]
        return max(values, default=1) < 1

    @property
    def one_config(self) -> bool:
        """Whether all its rows were run under one config, and so under one schedule."""
        return len({result.config_sha256 for result in self.results}) <= 1

    @property
    def off_config(self) -> bool:
        """Whether a result was run under another config than the task's own."""
        return any(result.config_sha256 != self.task.config_sha256 for result in self.results)

    def said_once(self, read: Callable[[Result], Any]) -> str:
        """What all results share; where they do not, each value with the inits that have it."""
        inits: dict[str, list[str]] = {}
        for result in self.results:
            names = inits.setdefault(str(read(result)), [])
            if result.init not in names:
                names.append(result.init)
        if len(inits) == 1:
            return next(iter(inits))
        return ", ".join(f"{value} ({', '.join(names)})" for value, names in inits.items())

    def compares(self, metric: str) -> bool:
        """Whether a value of ``metric`` was published under the protocol that is run here."""
        rows = (row for row in self.task.rows if metric in row.values)
        own = any(row.protocols[metric] == self.task.protocol for row in rows)
        return self.official and own

    def difference(self, row: Row, metric: str) -> float | None:
        """Measured less published: on official data, within one protocol and its config, only."""
        published = row.published.values if row.published else {}
        if not (self.official and metric in row.measured and metric in published):
            return None
        same_protocol = row.published.protocols[metric] == self.task.protocol
        if not (same_protocol and row.config_sha256 == self.task.config_sha256):
            return None
        return row.measured[metric].mean - published[metric]

    def blocks(self) -> list["Block"]:
        """The metrics by what they measure, and few enough for a terminal."""
        return [
            _block(self, tuple(group[start : start + METRICS_SIDE_BY_SIDE]))
            for group in by_group(self.task.metrics).values()
            for start in range(0, len(group), METRICS_SIDE_BY_SIDE)
        ]


@dataclass(frozen=True)
class Block:
    """The part of a table that is shown in one piece: some metrics, and the rows that may have one.

    measured, published: which of the two kinds of columns it has; compared: whether, behind them,
    there is the difference of its first metric.
    """

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    measured: bool
    published: bool
    compared: bool

    @property
    def names(self) -> list[str]:
        """The metrics without what they share: ``AP50`` for ``bbox/AP50``."""
        return [metric.removeprefix(f"{group_of(metric)}/") for metric in self.metrics]


def _block(table: Table, metrics: tuple[str, ...]) -> Block:
    def publishes(row: Row) -> bool:
        return row.published is not None and any(name in row.published.values for name in metrics)

    published = any(map(publishes, table.rows))
    return Block(
        metrics=metrics,
        rows=tuple(row for row in table.rows if row.init or publishes(row)),
        measured=any(row.init for row in table.rows),
        published=published,
        compared=published and table.compares(metrics[0]),
    )


def build_tables(
    results: Iterable[Result], tasks: Mapping[str, TaskInfo], matrix: Mapping[str, Any] | None
) -> list[Table]:
    """Tables in the order of ``tasks``, then of other tasks' names; one per data fingerprint.

    matrix: what ``run`` was asked for, so that a cell that is missing is seen, and a task of which
    all are; None if unknown.
    """
    by_table: dict[tuple[str, Data | None], list[Result]] = {}
    for result in results:
        by_table.setdefault((result.task, result.data), []).append(result)
    begun = {task for task, _ in by_table}
    for task in matrix["tasks"] if matrix is not None else []:
        if task in tasks and task not in begun:
            by_table[task, None] = []
    order = {name: number for number, name in enumerate(tasks)}

    def position(key: tuple[str, Data | None]) -> tuple:
        task, data = key
        place = (not data.official, data.name, data.sha256) if data else ()
        return (order.get(task, len(order)), task, place)

    tables = []
    for task, data in sorted(by_table, key=position):
        own = by_table[task, data]
        others = [r for key in by_table if key[0] == task and key[1] != data for r in by_table[key]]
        tables.append(_table(tasks.get(task) or _task_from(own), data, own, others, matrix))
    return tables


def _task_from(results: list[Result]) -> TaskInfo:
    """A task that published.yaml does not list: its metrics are those of its cells, in order."""
    first = results[0]
    metrics = dict.fromkeys(name for result in results for name in result.metrics)
    return TaskInfo(
        name=first.task, title=first.task, metrics=tuple(metrics), main_metric=first.main_metric
    )


def _table(
    task: TaskInfo,
    data: Data | None,
    results: list[Result],
    others: list[Result],
    matrix: Mapping[str, Any] | None,
) -> Table:
    """others: of the same task on other data; what is done there is not missing here."""
    wanted = matrix["inits"] if matrix is not None and task.name in matrix["tasks"] else {}
    found = sorted({result.seed for result in results})
    rows: list[Row] = []
    for init in sorted({result.init for result in results} | set(wanted)):
        own = [result for result in results if result.init == init]
        elsewhere = sorted(result.seed for result in others if result.init == init)
        if elsewhere and not own:
            continue
        seeds = matrix["seeds"][task.name] if init in wanted else found
        there = {*elsewhere, *(result.seed for result in own)}
        missing = tuple(seed for seed in seeds if seed not in there)
        notes = [f"missing: seed {_listed(missing)}"] if missing else []
        notes += [f"on other data: seed {_listed(elsewhere)}"] if elsewhere else []
        rows += _rows_of_init(init, own, missing, wanted.get(init, {}), notes, task)
    shown = [row.published for row in rows]
    rows += [
        Row(published.method, published.epochs, published=published)
        for published in task.rows
        if published not in shown
    ]
    rows.sort(key=lambda row: (METHODS.index(row.method), row.epochs or 0, row.init or "~"))
    return Table(task, data, tuple(results), tuple(rows))


def _rows_of_init(
    init: str,
    results: list[Result],
    missing: tuple[int, ...],
    asked: Mapping[str, Any],
    notes: list[str],
    task: TaskInfo,
) -> list[Row]:
    """One row; more where its seeds were made from different weights or configs."""
    by_recipe: dict[tuple, list[Result]] = {}
    for result in results:
        by_recipe.setdefault(result.recipe, []).append(result)
    rows, wanted = [], len(results) + len(missing)
    for same in list(by_recipe.values()) or [[]]:
        own = list(notes)
        if len(by_recipe) > 1:
            _, _, weights, config = same[0].recipe
            own.append(
                f"not averaged with the other rows of {init}, whose weights or config differ: "
                f"here seed {_listed(result.seed for result in same)}, "
                f"weights {short(weights)}, config {short(config)}"
            )
        rows.append(_row(init, same, missing, wanted, asked, own, task))
    return rows


def _row(
    init: str,
    results: list[Result],
    missing: tuple[int, ...],
    wanted: int,
    asked: Mapping[str, Any],
    notes: list[str],
    task: TaskInfo,
) -> Row:
    method = results[0].method if results else asked["method"]
    epochs = results[0].pretrain_epochs if results else asked.get("epochs")
    if asked.get("epochs") not in (None, epochs):
        notes.append(f"the weights say {epochs} epochs, the benchmark's YAML {asked['epochs']}")
    published = _published(method, epochs, task)
    if len(published) > 1:
        notes.append("beside no published row: more than one has this method and these epochs")
    measured = _measured(results, task.metrics)
    absent = [name for name in task.metrics if results and name not in measured]
    if absent:
        notes.append(f"not every seed has a value of {', '.join(absent)}")
    return Row(
        method=method,
        epochs=epochs,
        init=init,
        seeds=tuple(sorted(result.seed for result in results)),
        missing=missing,
        wanted=wanted,
        measured=measured,
        schedule=results[0].schedule if results else None,
        config_sha256=results[0].config_sha256 if results else None,
        published=published[0] if len(published) == 1 else None,
        notes=tuple(notes),
    )


def _published(method: str, epochs: int | float | None, task: TaskInfo) -> list[PublishedRow]:
    """The rows of one method: of several, those that are most under the task's own protocol.

    More than one is left where a source tells two rows apart that we do not, as MoCo v1 and v2.
    """
    rows = [
        row
        for row in task.rows
        if row.method == method and (row.epochs == epochs or method in WITHOUT_EPOCHS)
    ]

    def share(row: PublishedRow) -> float:
        return list(row.protocols.values()).count(task.protocol) / len(row.protocols)

    most = max(map(share, rows), default=None)
    return [row for row in rows if share(row) == most]


def _measured(results: list[Result], metrics: Iterable[str]) -> dict[str, Measured]:
    """Each metric that every seed has: a mean over fewer of them would be another row's."""
    measured = {}
    for metric in metrics:
        values = [result.metrics[metric] for result in results if metric in result.metrics]
        if values and len(values) == len(results):
            std = statistics.stdev(values) if len(values) > 1 else None
            measured[metric] = Measured(statistics.fmean(values), std)
    return measured


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def short(sha256: str | None) -> str:
    """The first digits of a hash: enough to tell two apart."""
    return sha256[:8] if sha256 else "none"
