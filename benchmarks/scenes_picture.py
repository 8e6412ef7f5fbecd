"""The learning curves of the scenes benchmark as one SVG picture, for light and dark pages.

A thin line for each replicate, a bold one for their mean. Inits differ in colour and in dashes; the
background is whatever the page has, so every colour stands out from white and from black alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.committed import CLOVE, FROZEN, FULL, RANDOM, Curve, Replicate
from benchmarks.tables.published import load_published

CHANCE = "chance"
COLOURS = {CLOVE: "#2a7fd4", RANDOM: "#bb6016", CHANCE: "#777777"}
DASHES = {CLOVE: "none", RANDOM: "7 3", CHANCE: "2 3"}
GREY = "#777777"
COLUMNS, WIDTH, HEIGHT, HEAD = 3, 300, 210, 34  # px: of one panel, and of the line above them all
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 26, 34  # px around a panel's axes
TICKS = 4  # at most, of an axis

Points = tuple[np.ndarray, np.ndarray]  # x, ascending, and y


@dataclass(frozen=True)
class Panel:
    """One quantity; by init (or CHANCE) the curves of the replicates."""

    title: str
    x: str
    curves: dict[str, list[Points]]


def panels(replicates: Sequence[Replicate]) -> list[Panel]:
    """The match rate of the pretrainings, then the loss of every task; empty ones are left out.

    Of the regimes ``full`` and ``frozen``: ablations have tables only.
    """
    records = [r.pretrainings[FULL, CLOVE] for r in replicates if (FULL, CLOVE) in r.pretrainings]
    matches = [record["match_rate"] for record in records]
    rates = {
        CLOVE: [_points(curve, "step", "match_rate") for curve in matches],
        CHANCE: [_points(curve, "step", "match_chance") for curve in matches],
    }
    found = [Panel("pretraining: match rate", "step", rates)]
    for regime in (FULL, FROZEN):
        for task in load_published():
            of_task = {
                init: [
                    _points(replicate.curves[regime, init, task], "iteration", "total_loss")
                    for replicate in replicates
                    if (regime, init, task) in replicate.curves
                ]
                for init in (CLOVE, RANDOM)
            }
            title = f"{task}{', frozen trunk' if regime == FROZEN else ''}: loss"
            found.append(Panel(title, "iteration", of_task))
    return [panel for panel in found if any(len(x) for x, _ in _all(panel))]


def mean(curves: Sequence[Points]) -> Points:
    """Of what all ``curves`` span, at every x that one of them has; linear in between.

    Each has a point at least; the mean has none where no x is within all of them.
    """
    low, high = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    places = np.unique(np.concatenate([x for x, _ in curves]))
    places = places[(low <= places) & (places <= high)]
    return places, np.mean([np.interp(places, x, y) for x, y in curves], axis=0)


def draw(replicates: Sequence[Replicate]) -> str:
    """The picture; the same replicates give the same bytes."""
    drawn = panels(replicates)
    rows = math.ceil(len(drawn) / COLUMNS)
    width, height = COLUMNS * WIDTH, HEAD + rows * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="12" fill="{GREY}">',
        "<title>Learning curves of the scenes benchmark</title>",
        *(_legend() if drawn else ['<text x="10" y="22">Nothing was measured yet.</text>']),
    ]
    for number, panel in enumerate(drawn):
        row, column = divmod(number, COLUMNS)
        parts.append(f'<g transform="translate({column * WIDTH} {HEAD + row * HEIGHT})">')
        parts += [*_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _points(curve: Curve, x: str, y: str) -> Points:
    """Where a value was not finite there is no point."""
    pairs = [(a, b) for a, b in zip(curve[x], curve[y], strict=True) if b is not None]
    xs, ys = np.array(pairs, dtype=float).reshape(-1, 2).T
    return xs, ys


def _all(panel: Panel) -> list[Points]:
    return [points for curves in panel.curves.values() for points in curves]


def _legend() -> list[str]:
    parts = []
    for number, name in enumerate(COLOURS):
        left = 10 + 100 * number
        parts += [
            _line(name, f"M{left},18H{left + 28}", "bold"),
            f'<text x="{left + 34}" y="22">{name}</text>',
        ]
    return [*parts, '<text x="320" y="22">thin: one replicate; bold: their mean</text>']


def _panel(panel: Panel) -> list[str]:
    points = _all(panel)
    right = max(x.max(initial=0) for x, _ in points) or 1
    high = max(y.max(initial=0) for _, y in points) or 1
    bottom = HEIGHT - BOTTOM

    def at(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def level(y: float) -> float:
        return bottom - (bottom - TOP) * y / high

    def path(curve: Points) -> str:
        return "M" + " ".join(f"{at(x):.1f},{level(y):.1f}" for x, y in zip(*curve, strict=True))

    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{panel.title}</text>']
    for value in _ticks(high):
        y = f"{level(value):.1f}"
        parts += [
            f'<path d="M{LEFT},{y}H{WIDTH - RIGHT}" stroke="{GREY}" stroke-opacity="0.3"/>',
            f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dy="4">{value:g}</text>',
        ]
    for value in _ticks(right):
        place = f'x="{at(value):.1f}" y="{bottom + 14}"'
        parts.append(f'<text {place} text-anchor="middle">{value:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 28}" text-anchor="middle">{panel.x}</text>')
    for name, curves in panel.curves.items():
        curves = [curve for curve in curves if len(curve[0])]
        parts += [_line(name, path(curve), "thin") for curve in curves]
        average = mean(curves) if curves else ((), ())
        parts += [_line(name, path(average), "bold")] if len(average[0]) else []
    return parts


def _line(name: str, path: str, kind: str) -> str:
    width, opacity = ("2.5", "1") if kind == "bold" else ("1", "0.6")
    return (
        f'<path class="{kind} {name}" d="{path}" fill="none" stroke="{COLOURS[name]}" '
        f'stroke-width="{width}" stroke-opacity="{opacity}" stroke-dasharray="{DASHES[name]}"/>'
    )


def _ticks(high: float) -> list[float]:
    """Round numbers from 0 to ``high``."""
    from matplotlib.ticker import MaxNLocator

    places = MaxNLocator(TICKS, steps=[1, 2, 5, 10]).tick_values(0, high)
    return [float(place) for place in places if 0 <= place <= high * (1 + 1e-9)]
