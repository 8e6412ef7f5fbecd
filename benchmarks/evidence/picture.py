"""The learning curves of the scenes benchmark as one SVG picture, for light and dark pages.

A thin line for each replicate, a bold one for their mean. Inits differ in colour and in dashes; the
background is whatever the page has, so every colour stands out from white and from black alike.
"""

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from benchmarks.evidence.rows import CLOVE, FROZEN, FULL, PRETRAINING, RANDOM, Replicate
from benchmarks.tables.published import load_published

CHANCE = "chance"
COLOURS = {CLOVE: "#2a7fd4", RANDOM: "#bb6016", CHANCE: "#777777"}
DASHES = {CLOVE: "-", RANDOM: "--", CHANCE: ":"}
GREY = "#777777"
INK = (
    "axes.edgecolor",
    "axes.labelcolor",
    "grid.color",
    "text.color",
    "xtick.color",
    "ytick.color",
)
STYLE = dict.fromkeys(INK, GREY) | {
    "svg.hashsalt": "SCENES",  # else its identifiers are random
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
COLUMNS = 3

Points = tuple[np.ndarray, np.ndarray]  # x, ascending, and y


def panels(replicates: Sequence[Replicate]) -> dict[str, dict[str, list[Points]]]:
    """By title and init (or CHANCE) the curves of the replicates; panels without any are left out.

    The match rate of the pretrainings, then the loss of every task. Of the regimes ``full`` and
    ``frozen``: ablations have tables only.
    """

    def curves(*key: str) -> list[Points]:
        points = [r.curves[key].items() for r in replicates if key in r.curves]
        # Where a value was not finite there is no point
        finite = ([(x, y) for x, y in own if y is not None] for own in points)
        return [tuple(np.array(own, dtype=float).T) for own in finite if own]

    found = {
        "pretraining: match rate": {
            CLOVE: curves(FULL, CLOVE, PRETRAINING, "match_rate"),
            CHANCE: curves(FULL, CLOVE, PRETRAINING, "match_chance"),
        }
    }
    for regime in (FULL, FROZEN):
        for task in load_published():
            title = f"{task}{', frozen trunk' if regime == FROZEN else ''}: loss"
            found[title] = {i: curves(regime, i, task, "total_loss") for i in (CLOVE, RANDOM)}
    return {title: own for title, own in found.items() if any(own.values())}


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
    with matplotlib.rc_context(STYLE):
        drawn = panels(replicates)
        rows = math.ceil(len(drawn) / COLUMNS)
        figure = Figure(figsize=(9, 0.3 + 2.1 * rows), layout="constrained")
        for number, (title, own) in enumerate(drawn.items(), start=1):
            _panel(figure.add_subplot(rows, COLUMNS, number), title, own)
        lines = [Line2D([], [], color=COLOURS[n], ls=DASHES[n], label=n) for n in COLOURS]
        about = "thin: one replicate; bold: their mean"
        figure.legend(handles=lines, title=about, loc="outside upper left", ncols=3, frameon=False)
        file = io.StringIO()
        # Neither date nor version: they would differ without a difference
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    return file.getvalue()


def _panel(axes: Axes, title: str, curves_of: dict[str, list[Points]]) -> None:
    for name, curves in curves_of.items():
        if not curves:
            continue
        for x, y in curves:
            axes.plot(x, y, DASHES[name], color=COLOURS[name], lw=0.8, alpha=0.6)
        axes.plot(*mean(curves), DASHES[name], color=COLOURS[name], lw=2, gid=f"bold {name}")
    axes.set(title=title, xlabel="step", xlim=(0, None), ylim=(0, None))
