"""Bars and curves as SVG, which take their colours from the page."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from benchmarks.report.cells import Cell
from benchmarks.runner.state import read_lines
from benchmarks.tables.build import Table

WIDTH, HEIGHT = 4.5, 2.75  # inches, in which text has 10 points: legible on a phone, too
BAR_HEIGHT = 0.3
LETTERS = 26  # of a name beside a bar
MAX_POINTS, MIN_POINTS = 200, 20  # of one curve
POINTS = 20_000  # of one quantity over all cells: the page must stay small


@dataclass(frozen=True)
class Chart:
    """One quantity over the iterations of all cells of a task on one data set."""

    quantity: str
    data: str
    inits: list[str]
    svg: str


def draw_bars(table: Table, inits: Sequence[str]) -> str | None:
    """A bar from 0 for every row that was measured; one of no length where that is negative.

    inits: all of the page, in the order of their colours. None where nothing was measured.
    """
    metric = table.task.main_metric
    rows = [(row.init, row.measured[metric]) for row in table.rows if metric in row.measured]
    if not rows:
        return None
    figure = Figure((WIDTH, BAR_HEIGHT * len(rows) + 0.4), layout="constrained")
    axes = _axes(figure, "x")
    for place, (init, value) in enumerate(rows):
        series = inits.index(init)
        axes.barh(place, max(value.mean, 0), color="black", gid=f"bar s{series}")
        if value.std is not None:
            ends = [max(value.mean + sign * value.std, 0) for sign in (-1, 1)]
            axes.plot(ends, [place, place], "black", gid="whisker")
        axes.text(1.02, place, format(value), transform=axes.get_yaxis_transform(), va="center")
    axes.set_xlim(0, max([0, *(value.mean + (value.std or 0) for _, value in rows)]) or 1)
    axes.set_yticks(range(len(rows)), [_shortened(init) for init, _ in rows])
    axes.invert_yaxis()
    return _svg(figure, f"{metric} of every init; the numbers are in the tables")


def _shortened(name: str) -> str:
    """Without its middle where that leaves no room for the bar."""
    half = (LETTERS - 1) // 2
    return name if len(name) <= LETTERS else f"{name[:half]}…{name[-half:]}"


def draw_curves(
    cells: Sequence[Cell], data: str, main_metric: str, inits: Sequence[str], of_all: int
) -> list[Chart]:
    """The training curves of one task's cells: the total loss, then whatever else was logged.

    data: what all of them are run on, in words.
    inits: all of the page, in the order of their colours.
    of_all: how many cells the page has, which decides how many points are drawn.
    """
    most = min(MAX_POINTS, max(MIN_POINTS, POINTS // of_all))
    records = {cell: _read(cell) for cell in cells}
    names = {name for own in records.values() for record in own for name in record}
    kinds = ("total_loss", re.escape(main_metric), "loss_.*", "(?!.*/fg_).*accuracy", "lr")
    charts = []
    for name in [n for kind in kinds for n in sorted(names) if re.fullmatch(kind, n)]:
        figure, drawn = Figure((WIDTH, HEIGHT), layout="constrained"), []
        axes = _axes(figure, "y")
        for cell, own in records.items():
            points = [
                (r["iteration"], r[name]) for r in own if math.isfinite(r.get(name, math.nan))
            ]
            if points:
                drawn.append(cell.init)
                chosen = points[:: -math.ceil(len(points) / most)]  # with the last one
                gid = f"line s{inits.index(cell.init)}"
                axes.plot(*zip(*chosen[::-1], strict=True), "black", gid=gid)
        axes.update_datalim([(0, 0)])
        axes.autoscale_view()
        said = f"{name} over the iterations, a line per cell; data: {data}"
        charts.append(Chart(name, data, drawn, _svg(figure, said)))
    return charts


def _read(cell: Cell) -> list[dict[str, float]]:
    """The lines of the log, those of one iteration in one."""
    path = cell.folder / "training.jsonl"
    records: dict[int, dict[str, float]] = {}
    for record in read_lines(path) if path.is_file() else ():
        # What was done twice, before and after an interruption, is the same twice.
        records.setdefault(record.get("iteration", 0), {"iteration": 0}).update(record)
    return [records[iteration] for iteration in sorted(records)]


def _axes(figure: Figure, grid: str) -> "matplotlib.axes.Axes":
    axes = figure.subplots()
    axes.grid(visible=True, axis=grid)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.margins(0.01)
    return axes


def _svg(figure: Figure, label: str) -> str:
    """The figure as a part of a page, which draws in its own colours what is black here.

    What has a gid gets it as its classes. Other ids go, or two figures would have the same ones.
    """
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", transparent=True)
    svg = text.getvalue().partition("<svg")[2]
    svg = re.sub("<(metadata|defs)>.*?</\\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="((line|bar) s\d+|whisker)"', r' class="\1"', svg)
    svg = re.sub(r' id="[^"]*"| clip-path="[^"]*"| font-family: [^;]*;|(?<=\d) \n', "", svg)
    numbers = r'(?<=[ "(])\d+\.\d+(?=[ ")Lz])'  # coordinates, and none that is text
    svg = re.sub(numbers, lambda number: f"{float(number[0]):.1f}", svg)
    return f'<svg role="img" aria-label="{label}"' + svg.replace("#000000", "currentColor")
