"""What is kept of the replicates of the scenes benchmark: the CSV files of ``results/``.

    replicates.csv   one replicate a row: its scenes, hours to draw them, commit, machine, packages
    pretraining.csv  the weights that the cells of a regime came from; no hashes where the
                     pretraining is that of the regime ``full``
    cells.csv        one fine-tuning a row: data, weights, config, seconds, machine, commit
    results.csv      one metric of a fine-tuning a row, in percent
    curves.csv       one point of a learning curve a row; no value where it was not finite

``run`` is 1, or 2 where a seed was run a second time. Every number is written as Python's ``repr``
has it, so that it is read again as it was.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.tables.published import load_published
from pretrain.runtime.files import write_text

RESULTS = Path(__file__).with_name("results")
FULL, FROZEN = "full", "frozen"  # the two regimes; all others are ablations
INITS = CLOVE, RANDOM = "clove", "random"  # which are compared
PRETRAINING = "pretraining"  # the task of its curves

FILES = ("replicates", "pretraining", "cells", "results", "curves")
SCENES = ("format", "unlabelled", "train", "val", "longest_side", "easy")  # columns
INTEGERS = ("run", "seed", "step", *SCENES)
DECIMALS = ("hours", "seconds", "conversion_hours", "value")

Row = dict[str, Any]


@dataclass(frozen=True)
class Replicate:
    """One seed's scenes, pretrainings and fine-tunings."""

    about: Row
    pretrainings: dict[str, Row] = field(default_factory=dict)  # by regime
    cells: dict[tuple[str, ...], Row] = field(default_factory=dict)  # by regime, init and task
    metrics: dict[tuple[str, ...], float] = field(default_factory=dict)  # by cell and metric
    # By cell and quantity: values, None where they were not finite, by step
    curves: dict[tuple[str, ...], dict[int, float | None]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """That of its scenes, pretrainings and fine-tunings."""
        return self.about["seed"]


def read_replicates(folder: Path = RESULTS, run: int = 1) -> list[Replicate]:
    """All replicates of that run, by seed; the value of each cell's main metric joins its row."""
    rows = {name: [r for r in read_rows(folder, name) if r["run"] == run] for name in FILES}
    main_metrics = {name: task.main_metric for name, task in load_published().items()}
    found = {row["seed"]: Replicate(row) for row in rows["replicates"]}
    for row in rows["pretraining"]:
        found[row["seed"]].pretrainings[row["regime"]] = row
    for row in rows["results"]:
        found[row["seed"]].metrics[*_cell(row), row["metric"]] = row["value"]
    for row in rows["curves"]:
        curves = found[row["seed"]].curves
        curves.setdefault((*_cell(row), row["quantity"]), {})[row["step"]] = row["value"]
    for row in rows["cells"]:
        own, cell = found[row["seed"]], _cell(row)
        own.cells[cell] = row | {"value": own.metrics[*cell, main_metrics[row["task"]]]}
    return [found[seed] for seed in sorted(found)]


def read_rows(folder: Path, name: str) -> list[Row]:
    """The rows of one file, none where it is not there. ValueError for what should be a number."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{column: _value(column, text) for column, text in row.items()} for row in rows]


def write_rows(folder: Path, name: str, of: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Put ``rows`` in the place of those that have the values ``of``; the others stay."""
    kept = [row for row in read_rows(folder, name) if not of.items() <= row.items()]
    ordered = sorted([*kept, *rows], key=lambda r: (r["run"], r["seed"], r.get("regime", "")))
    text = io.StringIO()
    writer = csv.DictWriter(text, max(ordered, key=len), lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    write_text(folder / f"{name}.csv", text.getvalue())


def _cell(row: Row) -> tuple[str, str, str]:
    return row["regime"], row["init"], row["task"]


def _value(column: str, text: str) -> Any:
    """None where nothing stands."""
    if column in INTEGERS:
        return int(text)
    if column in DECIMALS:
        return float(text) if text else None
    return text or None
