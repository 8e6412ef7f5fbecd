"""From a finished regime of a replicate to the rows that are kept of it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.evidence.rows import PRETRAINING, Row, write_rows
from benchmarks.runner.matrix import Cell, Init, Matrix
from benchmarks.runner.state import METRICS, read_json, read_lines
from benchmarks.tables.results import read_result
from pretrain.runtime.config import config_hash
from pretrain.runtime.files import list_checkpoints, sha256_of

MAX_POINTS = 50  # of one curve
OF_CELL = (  # as metrics.json names them
    *("pretrain_epochs", "weights_sha256", "config_sha256", "iterations", "images_per_batch"),
    *("images_per_bn_batch", "seconds", "hardware", "git_commit"),
)
OF_REPLICATE = ("SEED", "DATA.ROOT")  # in which the pretrainings of all replicates differ


def publish(regime: str, matrix: Matrix, output: Path, about: Row, folder: Path) -> int:
    """Write the rows of a finished regime, in the place of those that it had; returns its cells.

    output: of the matrix. about: the replicate's row. folder: of the CSV files.
    """
    of = {"run": about["run"], "seed": about["seed"], "regime": regime}
    rows: dict[str, list[Row]] = {"pretraining": [], "cells": [], "results": [], "curves": []}
    for cell in matrix.cells(output):
        key = of | {"init": cell.init.name, "task": cell.task}
        row, metrics = _cell(cell, output)
        rows["cells"].append(key | row)
        rows["results"] += [key | {"metric": name, "value": metrics[name]} for name in metrics]
        rows["curves"] += _curve(cell.folder / "training.jsonl", key, "iteration", "total_loss")
    for init in matrix.inits:
        key = of | {"init": init.name}
        if init.pretrain is not None:
            weights = [r["weights_sha256"] for r in rows["cells"] if r["init"] == init.name]
            rows["pretraining"].append(key | _pretraining(init, output, weights[0]))
            log, key = init.source(output) / "metrics.jsonl", key | {"task": PRETRAINING}
            for name in ("loss", "monitor/match_rate", "monitor/match_chance"):
                rows["curves"] += _curve(log, key, "step", name)
        elif init.stages:
            rows["pretraining"].append(key)  # that of the regime `full`
    for name, own in rows.items():
        write_rows(folder, name, of, own)
    write_rows(folder, "replicates", {"run": of["run"], "seed": of["seed"]}, [about])
    return len(rows["cells"])


def _cell(cell: Cell, output: Path) -> tuple[Row, dict[str, float]]:
    """The row less its key, and the metrics."""
    path = cell.folder / METRICS
    result, content = read_result(path, output), read_json(path)
    row = {name: getattr(result.data, name) for name in ("train_images", "test_images")}
    row["data_sha256"] = result.data.sha256
    return row | {name: content[name] for name in OF_CELL}, result.metrics


def _pretraining(init: Init, output: Path, weights: str) -> Row:
    """The row less its key; ``weights``: the hash of what the cells came from.

    ``seconds`` are those of training alone: images over the rates in the log, without the start,
    the monitors and what an interruption lost; None where the log has no rate. ``config_sha256``:
    of the resolved config less what differs between replicates.
    """
    run, settings = init.source(output), init.pretrain.settings
    log, batch_size = read_lines(run / "metrics.jsonl"), int(settings["SOLVER.TOTAL_BATCH_SIZE"])
    return {
        "checkpoint_sha256": sha256_of(list_checkpoints(run)[-1]),
        "backbone_sha256": weights,
        "config_sha256": config_hash(settings, OF_REPLICATE),
        "git_commit": read_json(run / "provenance.json").get("git_commit"),
        "seconds": _training_seconds(log, batch_size),
    }


def _training_seconds(log: Sequence[Mapping[str, Any]], batch_size: int) -> float | None:
    seconds, step, rate = 0.0, 0, None
    for line in log:
        if "loss" in line:
            # A last window of one step may have no rate: the one before it had counted its images
            rate = line.get("images_per_second") or rate
            if rate is None:
                return None
            seconds += (line["step"] - step) * batch_size / rate
            step = line["step"]
    return round(seconds, 1)


def _curve(log: Path, key: Row, place: str, name: str) -> list[Row]:
    """At most MAX_POINTS rows, evenly spaced, first and last among them."""
    # What was done twice, around an interruption, is the same twice
    points = dict(sorted((line[place], line[name]) for line in read_lines(log) if name in line))
    steps, last = list(points), len(points) - 1
    if last >= MAX_POINTS:
        steps = [steps[round(n * last / (MAX_POINTS - 1))] for n in range(MAX_POINTS)]
    key = key | {"quantity": name.removeprefix("monitor/")}
    return [
        key | {"step": n, "value": points[n] if math.isfinite(points[n]) else None} for n in steps
    ]
