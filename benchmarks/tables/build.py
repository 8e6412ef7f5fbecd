"""Results as tables: per task and data set, a row per init, mean ± std beside published values.

``build_tables`` makes rows of the results, ``Table.blocks`` the columns and the text of every
cell; RESULTS.md, results.tex and the HTML page lay these out.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.tables.published import METHODS, PublishedRow, TaskInfo, by_group
from benchmarks.tables.results import Data, Folder, Result

NOTHING = "–"
MEASURED, PUBLISHED, DIFFERENCE = "measured", "published", "measured − published"

# One published row each, whatever the number of epochs.
WITHOUT_EPOCHS = ("random", "supervised")

METRICS_SIDE_BY_SIDE = 3  # each takes two columns; more do not fit a terminal or a page

NOBODY = PublishedRow("", None, {}, {}, "", "")  # beside a row of ours that has no published one


class Measured(NamedTuple):
    """A metric over the seeds of a row: the sample standard deviation needs two of them."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        """Of at least one value."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __format__(self, sign: str) -> str:
        """Mean ± std; the value alone for one. sign: ``+`` shows the mean's."""
        return f"{self.mean:{sign}.2f}" + (f" ± {self.std:.2f}" if self.std is not None else "")


class Entry(NamedTuple):
    """One cell of a table; value: what it is sorted by, where that is not the text."""

    text: str
    value: float | None = None


class Column(NamedTuple):
    """kind: whose numbers stand in it (MEASURED, PUBLISHED, DIFFERENCE), where there are numbers.

    align: left for words, right for numbers.
    """

    name: str
    entries: Sequence[Entry]
    kind: str = ""
    align: str = "right"


def words(name: str, texts: Iterable[str | None]) -> Column:
    """A column of words."""
    return Column(name, [Entry(text or NOTHING) for text in texts], align="left")


def numbers(name: str, values: Iterable[float | None], kind: str = "", form: str = "") -> Column:
    """A column of numbers; form: of ``format``, by default digit for digit as it was printed."""
    entries = [Entry(NOTHING) if v is None else Entry(format(v, form), v) for v in values]
    return Column(name, entries, kind)


@dataclass(frozen=True)
class Row:
    """One init as we measured it, one published row, or both where they are the same method."""

    method: str
    epochs: int | float | None
    init: str | None = None
    results: tuple[Result, ...] = ()  # of one recipe
    missing: tuple[int, ...] = ()
    wanted: int = 0  # seeds of this init in this table, be they here, in other rows or missing
    measured: Mapping[str, Measured] = field(default_factory=dict)
    published: PublishedRow = NOBODY
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> list[int]:
        """Those that are averaged."""
        return sorted(result.seed for result in self.results)

    @property
    def remarks(self) -> list[str]:
        """Its notes, and what is known of the published row beside it."""
        remark = self.published.remark
        return [*self.notes, *([f"published: {remark}"] if remark else [])]

    def count(self) -> Entry:
        """How many seeds there are, and of how many where some are missing."""
        number = len(self.results)
        text = f"{number} of {self.wanted}" if self.missing else str(number)
        return Entry(NOTHING) if self.init is None else Entry(text, number)

    def mean(self, metric: str) -> Entry:
        """``12.50 ± 0.25``; the value alone for one seed."""
        if metric in self.measured:
            return Entry(format(self.measured[metric]), self.measured[metric].mean)
        return Entry("missing" if self.missing and not self.results else NOTHING)

    def publishes(self, *metrics: str) -> bool:
        """Whether its source prints one of them."""
        return any(metric in self.published.values for metric in metrics)


@dataclass(frozen=True)
class Block:
    """The part of a table that is shown in one piece: some metrics, and the rows that may have one.

    Of every row of ``rows`` there is an entry in every one of ``columns``. folded: it is shown on
    demand only, being about other data than those that were measured.
    """

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    folded: bool = False

    def has(self, kind: str) -> bool:
        """Whether there are columns of this kind."""
        return any(column.kind == kind for column in self.columns)

    def notes(self, row: Row) -> Sequence[str]:
        """What is said of a row here: of a published one only beside its values."""
        return row.remarks if self.has(PUBLISHED) else row.notes


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
    def one_config(self) -> bool:
        """Whether all its rows were run under one config, and so under one schedule."""
        return len({result.config_sha256 for result in self.results}) <= 1

    @property
    def side_by_side(self) -> bool:
        """Whether published values stand beside the measured ones, or apart and folded away."""
        return self.data is None or self.data.official

    def compares(self, metric: str) -> bool:
        """Whether a value of ``metric`` was published under the protocol that is run here."""
        rows = (row for row in self.task.rows if metric in row.values)
        own = any(row.protocols[metric] == self.task.protocol for row in rows)
        return self.official and own

    def difference(self, row: Row, metric: str) -> float | None:
        """Measured less published: on official data, within one protocol and its config, only."""
        if not (self.official and metric in row.measured and row.publishes(metric)):
            return None
        same_protocol = row.published.protocols[metric] == self.task.protocol
        if not (same_protocol and row.results[0].config_sha256 == self.task.config_sha256):
            return None
        return row.measured[metric].mean - row.published.values[metric]

    def blocks(self) -> list[Block]:
        """The metrics by what they measure, and few enough for a terminal; folded ones last."""
        parts = [
            tuple(group[start : start + METRICS_SIDE_BY_SIDE])
            for group in by_group(self.task.metrics).values()
            for start in range(0, len(group), METRICS_SIDE_BY_SIDE)
        ]
        if self.side_by_side:
            return [self._block(part, {MEASURED, PUBLISHED}) for part in parts]
        folded = [part for part in parts if any(row.publishes(*part) for row in self.rows)]
        blocks = [self._block(part, {MEASURED}) for part in parts]
        return blocks + [self._block(part, {PUBLISHED}, folded=True) for part in folded]

    def _block(self, metrics: tuple[str, ...], kinds: set[str], folded: bool = False) -> Block:
        rows = [
            row
            for row in self.rows
            if (MEASURED in kinds and row.init) or (PUBLISHED in kinds and row.publishes(*metrics))
        ]
        names = {metric: metric.partition("/")[2] or metric for metric in metrics}

        columns = [
            words("init", [row.init for row in rows]),
            words("method", [row.method for row in rows]),
            numbers("epochs", [row.epochs for row in rows], form="g"),
        ]
        if MEASURED in kinds and any(row.init for row in self.rows):
            columns.append(Column("n", [row.count() for row in rows]))
            for metric, name in names.items():
                columns.append(Column(name, [row.mean(metric) for row in rows], MEASURED))
        if PUBLISHED in kinds and any(row.publishes(*metrics) for row in rows):
            theirs = [row.published for row in rows]
            for metric, name in names.items():
                values = [printed.values.get(metric) for printed in theirs]
                columns.append(numbers(name, values, PUBLISHED))
            # The metrics are of one group, so each row has one letter for them.
            letters = [{p.protocols[m] for m in metrics if m in p.protocols} for p in theirs]
            columns.append(words("protocol", ["".join(letter) for letter in letters]))
            columns.append(words("source", [printed.source for printed in theirs]))
            if self.compares(metrics[0]):
                values = [self.difference(row, metrics[0]) for row in rows]
                columns.append(numbers(names[metrics[0]], values, DIFFERENCE, "+.2f"))
        return Block(metrics, tuple(rows), tuple(columns), folded)


def build_tables(folder: Folder, tasks: Mapping[str, TaskInfo]) -> list[Table]:
    """Tables in the order of ``tasks``, then of other tasks' names; one per data fingerprint.

    What was asked for and is not there is seen in them, also a task of which every cell is missing.
    """
    by_table: dict[tuple[str, Data | None], list[Result]] = {}
    for result in folder.results:
        by_table.setdefault((result.task, result.data), []).append(result)
    begun = {task for task, _ in by_table}
    for task in folder.matrix["tasks"]:
        if task in tasks and task not in begun:
            by_table[task, None] = []
    order = list(tasks)

    def position(key: tuple[str, Data | None]) -> tuple:
        task, data = key
        place = (not data.official, data.name, data.sha256) if data else ()
        return (order.index(task) if task in tasks else len(order), task, place)

    tables = []
    for task, data in sorted(by_table, key=position):
        own = by_table[task, data]
        info = tasks.get(task) or _task_from(own)
        tables.append(Table(info, data, tuple(own), tuple(_rows(info, own, folder))))
    return tables


def _task_from(results: list[Result]) -> TaskInfo:
    """A task that published.yaml does not list: its metrics are those of its cells, in order."""
    first = results[0]
    metrics = dict.fromkeys(name for result in results for name in result.metrics)
    return TaskInfo(first.task, first.task, tuple(metrics), first.main_metric)


def _rows(task: TaskInfo, results: list[Result], folder: Folder) -> list[Row]:
    """results: on one data set; what is done on another one is not missing here."""
    wanted = folder.matrix["inits"] if task.name in folder.matrix["tasks"] else {}
    rows: list[Row] = []
    for init in sorted({result.init for result in results} | set(wanted)):
        missing = [c.seed for c in folder.missing if (c.init, c.task) == (init, task.name)]
        by_recipe: dict[tuple, list[Result]] = {}
        for result in results:
            if result.init == init:
                by_recipe.setdefault(result.recipe, []).append(result)
        if missing and not by_recipe:
            asked = wanted[init]
            by_recipe[asked["method"], asked["epochs"], None, None] = []
        number = sum(map(len, by_recipe.values())) + len(missing)
        for (method, epochs, weights, config), same in by_recipe.items():
            notes = [f"missing: seed {_listed(missing)}"] if missing else []
            if len(by_recipe) > 1:
                notes.append(
                    f"not averaged with the other rows of {init}, whose weights or config differ: "
                    f"here seed {_listed(result.seed for result in same)}, "
                    f"weights {short(weights)}, config {short(config)}"
                )
            published = _published(method, epochs, task)
            if len(published) > 1:
                notes.append("beside no published row: more than one has this method and epochs")
            measured = _measured(same, task.metrics)
            absent = [name for name in task.metrics if same and name not in measured]
            if absent:
                notes.append(f"not every seed has a value of {', '.join(absent)}")
            beside = published[0] if len(published) == 1 else NOBODY
            fixed = (method, epochs, init, tuple(same), tuple(missing), number)
            rows.append(Row(*fixed, measured, beside, tuple(notes)))
    shown = [row.published for row in rows]
    rows += [
        Row(published.method, published.epochs, published=published)
        for published in task.rows
        if published not in shown
    ]
    rank = {method: number for number, method in enumerate(METHODS)}
    return sorted(
        rows, key=lambda row: (rank.get(row.method, len(rank)), row.epochs or 0, row.init or "~")
    )


def _published(method: str, epochs: float | None, task: TaskInfo) -> list[PublishedRow]:
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
            measured[metric] = Measured.of(values)
    return measured


def _listed(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, seeds))


def short(sha256: str | None) -> str:
    """The first digits of a hash: enough to tell two apart."""
    return sha256[:8] if sha256 else "none"
