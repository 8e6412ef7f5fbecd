"""Collects finished cells into RESULTS.md and results.csv; needs neither torch nor Detectron2."""

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import markdown
from benchmarks.published import PUBLISHED_YAML, TaskInfo, load_published
from benchmarks.results import Result, ResultError, read_results
from benchmarks.tables import build_tables
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_text

COLUMNS = (
    *("kind", "task", "init", "method", "epochs", "metric", "seed", "value"),
    *("data", "data_sha256", "weights_sha256", "config_sha256"),
    *("iterations", "images_per_batch", "seconds", "hardware", "git_commit"),
    *("protocol", "source", "remark"),
)


def collect(
    folder: str | Path, published: str | Path = PUBLISHED_YAML, output: str | Path | None = None
) -> int:
    """Write and print the tables of the results below ``folder``; returns the exit code.

    A file that is not a result does not stop the others: it is named, and the exit code is 1.
    """
    folder = Path(folder)
    tasks = load_published(published)
    results, problems = read_results(folder, tasks)
    if not results and not problems:
        raise ConfigError(f"{folder}: no metrics.json below it; python -m benchmarks run fills it")
    matrix = None
    try:
        matrix = _read_matrix(folder / "matrix.json")
    except ResultError as error:
        problems[Path("matrix.json")] = str(error)
    results = [_with_epochs(result, matrix) for result in results]
    page = markdown.page(
        build_tables(results, tasks, matrix), problems, _missing_cells(results, matrix)
    )
    output = folder if output is None else Path(output)
    write_text(output / "RESULTS.md", page)
    write_text(output / "results.csv", _csv(results, tasks))
    print(page, end="")
    for path, problem in problems.items():
        print(f"not collected: {folder / path}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _read_matrix(path: Path) -> dict[str, Any] | None:
    """What ``run`` was asked for last; None where the cells were run one by one."""
    if not path.exists():
        return None
    try:
        matrix = json.loads(path.read_text())
        complete = matrix["format"] == 1 and {"inits", "tasks", "seeds"} <= matrix.keys()
    except (ValueError, TypeError, KeyError) as error:
        raise ResultError(f"not readable: {error!r}") from error
    if not complete:
        raise ResultError("written by another version of python -m benchmarks run")
    return matrix


def _with_epochs(result: Result, matrix: Mapping[str, Any] | None) -> Result:
    """The benchmark's YAML knows the epochs of weights that do not say them."""
    asked = matrix["inits"].get(result.init) if matrix else None
    if result.pretrain_epochs is not None or not asked:
        return result
    return replace(result, pretrain_epochs=asked["epochs"])


def _missing_cells(results: Sequence[Result], matrix: Mapping[str, Any] | None) -> list[str]:
    """The cells that ``run`` was asked for and that are not there."""
    if matrix is None:
        return []
    found = {(result.init, result.task, result.seed) for result in results}
    return [
        f"{init}/{task}/seed{seed}"
        for init in matrix["inits"]
        for task in matrix["tasks"]
        for seed in matrix["seeds"]
        if (init, task, seed) not in found
    ]


def _csv(results: Sequence[Result], tasks: Mapping[str, TaskInfo]) -> str:
    """One line per value, nothing averaged; ``kind`` says whose value it is."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for result in sorted(results, key=lambda result: (result.task, result.init, result.seed)):
        writer.writerows(_measured_lines(result))
    present = {result.task for result in results}
    for task in tasks.values():
        if task.name in present:
            writer.writerows(_published_lines(task))
    return text.getvalue()


def _measured_lines(result: Result) -> list[dict[str, Any]]:
    line = {
        "kind": "measured",
        "task": result.task,
        "init": result.init,
        "method": result.method,
        "epochs": result.pretrain_epochs,
        "seed": result.seed,
        "data": result.data.name,
        "data_sha256": result.data.sha256,
        "weights_sha256": result.weights_sha256,
        "config_sha256": result.config_sha256,
        "iterations": result.iterations,
        "images_per_batch": result.images_per_batch,
        "seconds": result.seconds,
        "hardware": result.hardware,
        "git_commit": result.git_commit,
    }
    return [line | {"metric": name, "value": value} for name, value in result.metrics.items()]


def _published_lines(task: TaskInfo) -> list[dict[str, Any]]:
    return [
        {
            "kind": "published",
            "task": task.name,
            "method": row.method,
            "epochs": row.epochs,
            "metric": metric,
            "value": value,
            "data": "official",
            "protocol": row.protocols[metric],
            "source": row.source,
            "remark": row.remark,
        }
        for row in task.rows
        for metric, value in row.values.items()
    ]
