"""What is no result: named, set aside where it is corrupt, and in nobody's way."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.runner.state import move_aside
from benchmarks.tables.collect import collect
from benchmarks.tables.published import load_published
from benchmarks.tables.results import read_results
from tests.benchmarks.tables.cells import VALUES, metrics_json, write_cell, write_clove
from tests.benchmarks.tables.pages import page_of, row_of, table_rows

CORRUPT = [
    ("", "not readable as JSON"),
    ('{"format": 1,', "not readable as JSON"),
    ("[" * 100_000, "not readable as JSON"),
    ("[]", "not the mapping that a result is"),
    ("{}", "field format is missing"),
    (metrics_json() | {"seed": "0"}, "field seed: expected a finite number, found '0'"),
    (metrics_json() | {"data": {"name": "scenes"}}, "field train_images is missing"),
    (metrics_json() | {"metrics": VALUES | {"segm/AP": None}}, "field metrics.segm/AP: expect"),
    (metrics_json() | {"metrics": VALUES | {"segm/AP": float("nan")}}, "found nan"),
    (metrics_json() | {"metrics": VALUES | {"segm/AP": float("inf")}}, "found inf"),
    (metrics_json() | {"metrics": VALUES | {"segm/AP": 100.5}}, "an AP from 0 to 100, found 100.5"),
    (metrics_json() | {"metrics": VALUES | {"bbox/APl": -0.5}}, "metrics.bbox/APl: expected an AP"),
    (
        metrics_json() | {"metrics": {"bbox/AP": list(range(10**5))}},
        "found [0, 1, 2, 3, 4, 5, ...]",
    ),
]
MISPLACED_OR_UNKNOWN = [
    (metrics_json() | {"metrics": {"segm/AP": 1.0}}, "field metrics.bbox/AP is missing"),
    (metrics_json() | {"main_metric": "AP"}, "field metrics.AP is missing"),
    (metrics_json() | {"format": 2}, "field format: 2, this version reads 1; update this checkout"),
    (metrics_json("elsewhere"), "belongs to elsewhere/coco_fpn/seed0/metrics.json"),
]


@pytest.mark.parametrize(
    ("content", "message", "corrupt"),
    [(*case, True) for case in CORRUPT] + [(*case, False) for case in MISPLACED_OR_UNKNOWN],
)
def test_a_file_that_is_no_result_is_named_and_stops_no_other(
    tmp_path, capsys, content, message, corrupt
):
    write_clove(tmp_path)
    path = write_cell(tmp_path)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    before = path.read_bytes()
    assert collect(tmp_path) == 1
    page = page_of(tmp_path)
    assert row_of(page, "clove")["AP measured"] == "12.50"
    assert not [row for row in table_rows(page) if row["init"] == "random"]
    named = path.with_name("metrics.json.bad-1") if corrupt else path
    assert [named] == list(path.parent.iterdir())
    assert named.read_bytes() == before
    assert f"`{named.relative_to(tmp_path)}`" in page[page.index("## Not collected (1)") :]
    error = capsys.readouterr().err
    assert f"{named}: " in error
    assert message in error
    assert ("`python -m benchmarks run` runs this cell again" in error) == corrupt


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_does_not_matter(tmp_path, encoding):
    path = write_cell(tmp_path)
    expected = read_results(tmp_path, {})
    path.write_bytes(path.read_text().encode(encoding))
    assert read_results(tmp_path, {}) == expected
    assert expected[0]


def test_a_file_that_cannot_be_opened_is_not_taken_for_a_corrupt_one(tmp_path, capsys):
    folder = tmp_path / "random/coco_fpn/seed0/metrics.json"
    folder.mkdir(parents=True)
    assert collect(tmp_path) == 1
    assert "not readable: " in capsys.readouterr().err
    assert folder.is_dir()


def test_reading_for_another_purpose_renames_nothing(tmp_path):
    path = write_cell(tmp_path)
    path.write_text("torn")
    results, problems = read_results(tmp_path, load_published())
    assert (results, list(problems)) == ([], [path.relative_to(tmp_path)])
    assert path.read_text() == "torn"


def test_an_empty_folder_is_an_error(tmp_path, capsys):
    assert main(["collect", str(tmp_path)]) == 2
    assert "no metrics.json below it" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_quarantined_file_is_named_until_its_cell_is_there_again(tmp_path):
    bad = [tmp_path / "random/coco_fpn/seed0" / f"metrics.json.bad-{n}" for n in (1, 2)]
    for content in ("torn", "torn again"):
        write_cell(tmp_path).write_text(content)
        assert collect(tmp_path) == 1
    assert [path.read_text() for path in bad] == ["torn", "torn again"]
    assert collect(tmp_path) == 1
    assert "## Not collected (2)" in page_of(tmp_path)
    write_cell(tmp_path)
    assert collect(tmp_path) == 0
    assert all(path.exists() for path in bad)


def test_what_was_quarantined_in_a_cell_that_is_aside_is_nobodys_problem(tmp_path):
    write_cell(tmp_path).write_text("torn")
    assert collect(tmp_path) == 1
    write_cell(tmp_path)
    move_aside(tmp_path / "random/coco_fpn/seed0")
    write_cell(tmp_path)
    assert collect(tmp_path) == 0
    assert len(list(tmp_path.rglob("*.bad-1"))) == 1
