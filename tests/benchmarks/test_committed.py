"""What lies below scenes_results is not trusted: every fault is named, and no page is written."""

import json

import pytest

from benchmarks import scenes_page
from benchmarks.committed import read_replicates
from pretrain.runtime.config import ConfigError
from tests.benchmarks.replicates import OF_CELL, write_pairs, write_result


def written(results, monkeypatch, capsys):
    """The exit code of the command, what it said, and whether it left the old page alone."""
    page = results.parent / "SCENES.md"
    page.write_text("the old one")
    monkeypatch.setattr(scenes_page, "RESULTS", results)
    monkeypatch.setattr(scenes_page, "SCENES_MD", page)
    code = scenes_page.main()
    return code, capsys.readouterr().err, page.read_text() == "the old one"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "scenes_results"
    write_pairs(folder, [10.0, 11.0], [9.0, 9.5])
    return folder


@pytest.mark.parametrize(
    "place",
    [
        "notes.txt",
        "x100/replicate.json",
        "0100/replicate.json",
        "100/notes.txt",
        f"{OF_CELL}/log.txt",
        "100/full/clove/coco_fnp/metrics.json",
        "100/full/supervised/coco_fpn/metrics.json",
        "100/full/clove/coco_fpn/seed100/metrics.json",
    ],
)
def test_a_foreign_file_is_named_and_no_page_written(results, monkeypatch, capsys, place):
    (results / place).parent.mkdir(parents=True, exist_ok=True)
    (results / place).write_text("{}")
    code, error, kept = written(results, monkeypatch, capsys)
    named = place if place.startswith("100/") else place.split("/")[0]
    assert (code, kept) == (2, True)
    assert f"{results / named}: not what python -m benchmarks.replicate writes there" in error


def changed(content, **changes):
    return json.dumps(json.loads(content) | changes)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (f"{OF_CELL}/metrics.json", lambda c: c[:40], "not readable as JSON"),
        (
            f"{OF_CELL}/metrics.json",
            lambda c: changed(c, seed=101),
            "seed101/metrics.json by its own",
        ),
        (
            f"{OF_CELL}/metrics.json",
            lambda c: changed(c, metrics={"segm/AP": 1}),
            "bbox/AP is missing",
        ),
        (
            f"{OF_CELL}/metrics.json",
            lambda c: c.replace("10.0", "NaN"),
            "expected a number, found nan",
        ),
        (f"{OF_CELL}/metrics.json", None, "belong together, and one is missing"),
        (f"{OF_CELL}/curve.json", None, "belong together, and one is missing"),
        (f"{OF_CELL}/curve.json", lambda c: "[]", "expected an object, found []"),
        (
            f"{OF_CELL}/curve.json",
            lambda c: changed(c, total_loss=[1]),
            "of one length, of iteration",
        ),
        (
            f"{OF_CELL}/curve.json",
            lambda c: changed(c, iteration=[1, None, 3]),
            "null in iteration",
        ),
        (f"{OF_CELL}/curve.json", lambda c: changed(c, loss=[]), "unknown key loss"),
        ("100/full/clove/pretrain.json", lambda c: changed(c, loss=3), "loss: expected lists"),
        (
            "100/full/clove/pretrain.json",
            lambda c: changed(c, config_sha256=None),
            "sha256 is missing",
        ),
        ("100/replicate.json", None, "not readable"),
        ("100/replicate.json", lambda c: changed(c, seed=7), "seed 7; expected format 1, seed 100"),
        (
            "100/replicate.json",
            lambda c: changed(c, hours={"scenes": 1}),
            "hours: expected a mapping",
        ),
        ("100/replicate.json", lambda c: changed(c, scenes={}), "scenes: format is missing"),
    ],
)
def test_a_corrupt_file_is_named_and_no_page_written(
    results, monkeypatch, capsys, place, change, message
):
    path = results / place
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))
    code, error, kept = written(results, monkeypatch, capsys)
    assert (code, kept) == (2, True)
    assert str(path.parent if "belong together" in message else path) in error
    assert message in error


def test_one_pretraining_fine_tuned_with_two_seeds_is_one_replicate(results):
    shared = {"weights_sha256": f"{100:064x}"}
    write_result(results, 101, "full", "clove", "coco_fpn", 11.0, **shared)
    with pytest.raises(
        ConfigError, match=r"full: 100 and 101 were fine-tuned from the same weights"
    ):
        read_replicates(results)
