"""Results for programs: results.csv with a line per value, results.json with the tables."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from benchmarks.tables.build import Row, Table
from benchmarks.tables.results import Folder
from benchmarks.tables.statistics import compare_inits

COLUMNS = (
    *("kind", "task", "init", "method", "epochs", "metric", "seed", "value"),
    *("data", "data_sha256", "weights_sha256", "config_sha256"),
    *("iterations", "images_per_batch", "seconds", "hardware", "git_commit"),
    *("protocol", "source", "remark"),
)


def as_csv(tables: Iterable[Table], folder: Folder) -> str:
    """One line per value, nothing averaged; ``kind`` says whose it is, or that it is missing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    results = [result for table in tables for result in table.results]
    for result in sorted(results, key=lambda result: (result.task, result.init, result.seed)):
        own = {"kind": "measured", "epochs": result.pretrain_epochs}
        data = {"data": result.data.name, "data_sha256": result.data.sha256}
        for metric, value in result.metrics.items():
            writer.writerow(vars(result) | own | data | {"metric": metric, "value": value})
    writer.writerows({"kind": "missing"} | cell._asdict() for cell in folder.missing)
    for task in {table.task.name: table.task for table in tables}.values():
        for row in task.rows:
            for metric, value in row.values.items():
                letter = {"protocol": row.protocols[metric], "data": "official"}
                whose = {"kind": "published", "task": task.name, "metric": metric, "value": value}
                writer.writerow(vars(row) | letter | whose)
    return text.getvalue()


def as_json(tables: Iterable[Table], folder: Folder) -> dict[str, Any]:
    """All that RESULTS.md shows, unrounded; measured and published values under keys of their own.

    ``data`` is null where no cell is finished; std is null for one seed, a test for no spread.
    """
    return {
        "format": 1,
        "tables": [_table(table) for table in tables],
        "missing": [cell._asdict() for cell in folder.missing],
        "not_collected": {str(path): problem for path, problem in folder.problems.items()},
    }


def _table(table: Table) -> dict[str, Any]:
    task = table.task
    said = ("title", "metrics", "main_metric", "protocol", "protocols")
    return {
        "task": task.name,
        **{key: getattr(task, key) for key in said},
        "data": asdict(table.data) if table.data else None,
        "rows": [_row(table, row) for row in table.rows],
        "comparisons": [asdict(comparison) for comparison in compare_inits(table)],
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    differences = {metric: table.difference(row, metric) for metric in table.task.metrics}
    return {
        "init": row.init,
        "method": row.method,
        "epochs": row.epochs,
        "n": len(row.seeds),
        "seeds": row.seeds,
        "missing_seeds": row.missing,
        "measured": {metric: value._asdict() for metric, value in row.measured.items()},
        "published": asdict(row.published) if row.published.values else None,
        "measured_less_published": {
            metric: value for metric, value in differences.items() if value is not None
        },
        "notes": row.notes,
    }
