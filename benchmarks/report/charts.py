"""The geometry of bars and curves; the template draws them as SVG."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.report.cells import Cell
from benchmarks.tables.build import Table

WIDTH, HEIGHT = 720, 440  # of a chart of curves: half as many px on a phone
LEFT, RIGHT, TOP, BOTTOM = 90, 16, 16, 44
BAR_RIGHT, BAR_HEIGHT, LETTER = 190, 40, 13
LETTERS = (WIDTH // 2 - 20) // LETTER  # of a name beside a bar
MAX_POINTS, MIN_POINTS = 200, 20  # of one curve
LOSS_POINTS, OTHER_POINTS = 100_000, 10_000  # of all cells: the page must stay small


@dataclass(frozen=True)
class Tick:
    """A line of the grid."""

    at: int
    label: str


@dataclass(frozen=True)
class Bar:
    """Mean and whisker of one row of a table, in the units of the picture."""

    init: str
    y: int
    end: int
    whisker: tuple[int, int] | None
    label: str

    @property
    def name(self) -> str:
        """Its init, without its middle where that leaves no room for the bar."""
        half = (LETTERS - 1) // 2
        return self.init if len(self.init) <= LETTERS else f"{self.init[:half]}…{self.init[-half:]}"


@dataclass(frozen=True)
class Bars:
    """The main metric of a table's rows."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    left: int  # where they begin

    @property
    def height(self) -> int:
        """With the axis below."""
        return len(self.bars) * BAR_HEIGHT + BOTTOM


@dataclass(frozen=True)
class Line:
    """One cell's curve."""

    cell: Cell
    path: str


@dataclass(frozen=True)
class Curves:
    """One quantity over the iterations of all cells of a task on one data set."""

    quantity: str
    data: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


def draw_bars(table: Table) -> Bars:
    """A bar from 0 for every row that was measured; one of no length where that is negative."""
    metric = table.task.main_metric
    rows = [(row, row.measured[metric]) for row in table.rows if metric in row.measured]
    high = max([0, *(value.mean + (value.std or 0) for _, value in rows)]) or 1
    left = 20 + LETTER * min(LETTERS, max((len(row.init) for row, _ in rows), default=0))

    def place(value: float) -> int:
        return left + round((WIDTH - BAR_RIGHT - left) * max(value, 0) / high)

    bars = []
    for number, (row, value) in enumerate(rows):
        std = value.std
        whisker = None if std is None else (place(value.mean - std), place(value.mean + std))
        label = f"{value.mean:.2f}" + ("" if std is None else f" ± {std:.2f}")
        bars.append(Bar(row.init, number * BAR_HEIGHT, place(value.mean), whisker, label))
    return Bars(tuple(bars), tuple(Tick(place(tick), f"{tick:g}") for tick in _ticks(high)), left)


def points_of(budget: int, cells: int) -> int:
    """How many points each cell's curve may have."""
    return min(MAX_POINTS, max(MIN_POINTS, budget // max(cells, 1)))


def draw_curves(cells: Sequence[Cell], data: str, main_metric: str, of_all: int) -> list[Curves]:
    """The training curves of one task's cells: the total loss, then whatever else was logged.

    data: what all of them are run on, in words.
    of_all: how many cells the page has, which decides how many points are drawn.
    """
    loss_points, other_points = (points_of(b, of_all) for b in (LOSS_POINTS, OTHER_POINTS))
    lines = {cell: _read(cell, main_metric, loss_points) for cell in cells}
    names = {name for records in lines.values() for record in records for name in record}
    return [
        _curves(name, data, lines, loss_points if name == "total_loss" else other_points)
        for name in _ordered(names, main_metric)
    ]


def _read(cell: Cell, main_metric: str, points: int) -> list[dict[str, float]]:
    """About ``points`` evenly spaced lines of the log, and those with an evaluation."""
    path = cell.folder / "training.jsonl"
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines()
    step = math.ceil(len(lines) / points) or 1
    evaluation = f'"{main_metric}"'.encode()
    chosen = [
        line
        for number, line in enumerate(lines, start=1 - len(lines))  # the last one is 0
        if number % step == 0 or evaluation in line
    ]
    records = []
    for line in chosen:
        try:
            records.append({"iteration": 0, **json.loads(line)})
        except (ValueError, TypeError):
            continue  # cut off where a run was killed
    # What was done twice, before and after an interruption, is the same twice.
    return sorted(records, key=lambda record: record["iteration"])


def _ordered(names: Iterable[str], main_metric: str) -> list[str]:
    kinds = (
        lambda name: name == "total_loss",
        lambda name: name == main_metric,
        lambda name: name.startswith("loss_"),
        lambda name: name.endswith("accuracy") and "/fg_" not in name,
        lambda name: name == "lr",
    )
    return [name for kind in kinds for name in sorted(names) if kind(name)]


def _curves(
    quantity: str, data: str, lines: dict[Cell, list[dict[str, float]]], points: int
) -> Curves:
    curves = {}
    for cell, records in lines.items():
        values = [(record["iteration"], record.get(quantity)) for record in records]
        values = [(x, y) for x, y in values if y is not None and math.isfinite(y)]
        step = math.ceil(len(values) / points)
        if values:
            curves[cell] = values[::-step][::-1]
    every = [point for curve in curves.values() for point in curve]
    right = max((x for x, _ in every), default=0) or 1
    low, high = min((*(y for _, y in every), 0)), max((*(y for _, y in every), 0))
    high = high if high > low else low + 1
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at(x: float) -> int:
        return LEFT + round(width * x / right)

    def level(y: float) -> int:
        return TOP + round(height * (high - y) / (high - low))

    drawn = tuple(
        Line(cell, "M" + " ".join(f"{at(x)},{level(y)}" for x, y in curve))
        for cell, curve in curves.items()
    )
    x_ticks = tuple(Tick(at(x), f"{x:g}") for x in _ticks(right))
    y_ticks = tuple(Tick(level(y), f"{y:g}") for y in _ticks(high, low))
    return Curves(quantity, data, drawn, x_ticks, y_ticks)


def _ticks(high: float, low: float = 0) -> list[float]:
    """Round numbers from ``low`` to ``high``, about four."""
    rough = (high - low) / 4
    unit = 10 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]
