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
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.matrix import short
from benchmarks.published import load_published
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_text

RESULTS = Path(__file__).with_name("results")
FULL, FROZEN = "full", "frozen"  # the two regimes; all others are ablations
INITS = CLOVE, RANDOM = "clove", "random"  # which are compared
PRETRAINING = "pretraining"  # the task of its curves

SCENES_COLUMNS = ("format", "unlabelled", "train", "val", "longest_side", "easy")
CELL = ("run", "seed", "regime", "init", "task")
COLUMNS = {
    "replicates": ("run", "seed", *SCENES_COLUMNS, "hours", "git_commit", "hardware", "packages"),
    "pretraining": (
        *("run", "seed", "regime", "init", "checkpoint_sha256", "backbone_sha256"),
        *("config_sha256", "git_commit", "seconds", "conversion_hours"),
    ),
    "cells": (
        *(*CELL, "pretrain_epochs", "train_images", "test_images", "data_sha256"),
        *("weights_sha256", "config_sha256", "iterations", "images_per_batch"),
        *("images_per_bn_batch", "seconds", "hardware", "git_commit"),
    ),
    "results": (*CELL, "metric", "value"),
    "curves": (*CELL, "quantity", "step", "value"),
}
NUM_KEYS = {"replicates": 2, "pretraining": 4, "cells": 5, "results": 6, "curves": 7}
INTEGERS = ("run", "seed", "step", *SCENES_COLUMNS)
DECIMALS = ("hours", "seconds", "conversion_hours", "value")

Row = dict[str, Any]
Cell = tuple[str, str, str]  # regime, init, task


@dataclass(frozen=True)
class Replicate:
    """One seed's scenes, pretrainings and fine-tunings."""

    about: Row
    pretrainings: dict[str, Row] = field(default_factory=dict)  # by regime
    cells: dict[Cell, Row] = field(default_factory=dict)
    metrics: dict[Cell, dict[str, float]] = field(default_factory=dict)
    # By cell and quantity: steps, and values that are None where they were not finite
    curves: dict[tuple[str, ...], list[tuple[int, float | None]]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """That of its scenes, pretrainings and fine-tunings."""
        return self.about["seed"]


def read_replicates(folder: Path = RESULTS, run: int = 1) -> list[Replicate]:
    """All replicates of that run, by seed.

    Raises ConfigError for a row that cannot be used or belongs to nothing, and for two seeds that
    share one pretraining: they are no two replicates.
    """
    tables = {
        name: [row for row in read_rows(folder, name) if row["run"] == run] for name in COLUMNS
    }
    found = {row["seed"]: Replicate(row) for row in tables["replicates"]}
    main_metrics = {name: task.main_metric for name, task in load_published().items()}
    try:
        for row in tables["pretraining"]:
            found[row["seed"]].pretrainings[row["regime"]] = row
        for row in tables["cells"]:
            found[row["seed"]].cells[_cell(row)] = row
        for row in tables["results"]:
            replicate = found[row["seed"]]
            replicate.cells[_cell(row)]  # of no cell: KeyError
            replicate.metrics.setdefault(_cell(row), {})[row["metric"]] = row["value"]
        for row in tables["curves"]:
            curves, key = found[row["seed"]].curves, (*_cell(row), row["quantity"])
            curves.setdefault(key, []).append((row["step"], row["value"]))
        for replicate in found.values():
            for regime, init, task in replicate.cells:
                replicate.metrics[regime, init, task][main_metrics[task]]
    except KeyError as error:
        raise ConfigError(
            f"{short(folder)}: run {run}: what one file names, another lacks ({error.args[0]!r}). "
            "Restore the files, or run the replicate anew"
        ) from error
    _require_own_weights(found.values(), folder)
    return [found[seed] for seed in sorted(found)]


def read_rows(folder: Path, name: str) -> list[Row]:
    """The rows of one file, none where it is not there. Raises ConfigError for one that is bad."""
    path, columns = folder / f"{name}.csv", COLUMNS[name]
    if not path.exists():
        return []
    with path.open(newline="") as file:
        head, *lines = [tuple(line) for line in csv.reader(file)] or [()]
    if head != columns:
        raise ConfigError(f"{short(path)}: its columns are not {', '.join(columns)}; restore it")
    rows: dict[tuple, Row] = {}
    for number, line in enumerate(lines, start=2):
        try:
            row = {n: _value(n, text) for n, text in zip(columns, line, strict=True)}
            key = tuple(row.values())[: NUM_KEYS[name]]
            if None in key or key in rows:
                raise ValueError("it is there twice, or not whole")
        except ValueError as error:
            raise ConfigError(f"{short(path)}: line {number}: {error}. Restore it") from error
        rows[key] = row
    return list(rows.values())


def write_rows(folder: Path, name: str, of: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Put ``rows`` in the place of those that have the values ``of``; the others stay."""
    kept = [row for row in read_rows(folder, name) if not of.items() <= row.items()]
    order = [column for column in ("run", "seed", "regime") if column in COLUMNS[name]]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS[name], lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted([*kept, *rows], key=lambda row: [row[column] for column in order]))
    write_text(folder / f"{name}.csv", text.getvalue())


def _cell(row: Row) -> Cell:
    return row["regime"], row["init"], row["task"]


def _value(column: str, text: str) -> Any:
    if text == "":
        return None
    if column in INTEGERS:
        return int(text)
    if column in DECIMALS and not math.isfinite(float(text)):
        raise ValueError(f"{column} is {text}")
    return float(text) if column in DECIMALS else text


def _require_own_weights(replicates: Iterable[Replicate], folder: Path) -> None:
    """n counts pretrainings: fine-tuning one of them with two seeds makes no two replicates."""
    owners: dict[tuple[str, str], int] = {}
    for replicate in replicates:
        for (regime, _, _), row in replicate.cells.items():
            weights = row["weights_sha256"]
            owner = owners.setdefault((regime, weights or ""), replicate.seed)
            if weights and owner != replicate.seed:
                raise ConfigError(
                    f"{short(folder)}: {regime}: {owner} and {replicate.seed} were fine-tuned from "
                    f"the same weights, {weights}, so they are one replicate. Remove one of the two"
                )
