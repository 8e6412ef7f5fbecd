"""Results for programs, and what it costs to collect them."""

import json

import numpy as np
import pytest

from benchmarks.tables.collect import collect
from benchmarks.tables.published import load_published
from tests.benchmarks.tables.cells import OFFICIAL, VALUES, write_cell, write_clove
from tests.benchmarks.tables.pages import csv_lines


def test_csv_has_every_value_and_marks_whose_it_is(tmp_path):
    write_clove(tmp_path)
    write_cell(tmp_path, metrics=VALUES | {"bbox/APs": 1.25})
    collect(tmp_path)
    lines = csv_lines(tmp_path)
    measured = [line for line in lines if line["kind"] == "measured"]
    assert len(measured) == 2 * len(VALUES) + 1
    assert {line["data"] for line in measured} == {"scenes"}
    published = [line for line in lines if line["kind"] == "published"]
    assert len(published) == 54 + 4  # the paper's, and AP of two baselines from PixPro's README
    assert all(line["protocol"] and line["source"] and not line["init"] for line in published)
    assert len(lines) == len(measured) + len(published)


def test_json_has_unrounded_values_and_keeps_published_ones_apart(tmp_path):
    for seed, value in enumerate((12.123456, 13.0)):
        write_clove(tmp_path, seed, metrics=VALUES | {"bbox/AP": value}, data=OFFICIAL)
    write_cell(tmp_path, task="my_task", data=OFFICIAL)
    collect(tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert [table["task"] for table in content["tables"]] == ["coco_fpn", "my_task"]
    assert content["tables"][0]["data"] == OFFICIAL
    (row,) = [row for row in content["tables"][0]["rows"] if row["init"] == "clove"]
    assert row["measured"]["bbox/AP"] == {
        "mean": np.mean([12.123456, 13.0]),
        "std": pytest.approx(np.std([12.123456, 13.0], ddof=1), rel=1e-12),
    }
    assert (row["n"], row["seeds"], row["missing_seeds"]) == (2, [0, 1], [])
    assert row["published"]["values"]["bbox/AP"] == 41.2
    assert row["published"]["protocols"]["bbox/AP"] == "B"
    difference = row["measured"]["bbox/AP"]["mean"] - 41.2
    assert row["measured_less_published"]["bbox/AP"] == difference
    others = [row for row in content["tables"][0]["rows"] if row["init"] is None]
    assert others
    assert not any(row["measured"] or row["measured_less_published"] for row in others)
    (single,) = content["tables"][1]["rows"]
    assert single["measured"]["bbox/AP"] == {"mean": 12.5, "std": None}


def test_500_cells_are_collected_with_every_value(tmp_path):
    tasks = list(load_published().values())[:5]
    for number in range(500):
        init, task, seed = f"init{number // 50}", tasks[number // 10 % 5], number % 10
        metrics = {name: 20 + number / 100 for name in task.metrics}
        own = {"metrics": metrics, "main_metric": task.main_metric, "weights_sha256": "ab" * 32}
        write_cell(tmp_path, init, task.name, seed, method="clove", pretrain_epochs=100, **own)
    collect(tmp_path)
    lines = csv_lines(tmp_path)
    values = sum(len(task.metrics) for task in tasks) * 100
    assert sum(line["kind"] == "measured" for line in lines) == values
    content = json.loads((tmp_path / "results.json").read_text())
    assert [len(table["comparisons"]) for table in content["tables"]] == [45] * 5
