"""The CSV files: numbers come back as they were, and what cannot be used is named."""

import pytest

from benchmarks.evidence.rows import FILES, RESULTS, read_replicates, read_rows, write_rows
from tests.benchmarks.evidence.lab import write_pairs, write_replicate


@pytest.fixture
def results(tmp_path):
    write_pairs(tmp_path / "results", [10.0, 11.0], [9.0, 9.5])
    return tmp_path / "results"


@pytest.mark.parametrize("name", FILES)
def test_the_committed_files_are_written_again_as_they_are(tmp_path, name):
    write_rows(tmp_path, name, {}, read_rows(RESULTS, name))
    assert (tmp_path / f"{name}.csv").read_bytes() == (RESULTS / f"{name}.csv").read_bytes()


def test_rows_replace_those_of_the_same_regime_and_no_others(results):
    write_replicate(results, 100, {"frozen": {"clove": {"coco_fpn": 1 / 3}}})
    before = [row for row in read_rows(results, "results") if row["regime"] != "frozen"]
    write_replicate(results, 100, {"frozen": {"clove": {"coco_fpn": 2 / 3}}})
    after = read_rows(results, "results")
    assert [row for row in after if row["regime"] != "frozen"] == before
    assert [row["value"] for row in after if row["regime"] == "frozen"] == [2 / 3]
    keys = [(row["run"], row["seed"], row["regime"]) for row in after]
    assert keys == sorted(keys)


def test_second_runs_are_kept_apart(results):
    write_replicate(results, 101, {"full": {"clove": {"coco_fpn": 50.0}}}, run=2)
    first, second = (read_replicates(results, run) for run in (1, 2))
    assert [replicate.seed for replicate in first] == [100, 101]
    assert [replicate.seed for replicate in second] == [101]
    values = [r.cells["full", "clove", "coco_fpn"]["value"] for r in (*first, *second)]
    assert values == [10.0, 11.0, 50.0]
