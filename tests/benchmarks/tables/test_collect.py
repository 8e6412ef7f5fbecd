"""Tables of finished cells: what is averaged, what is kept apart, what is said."""

import errno
import json
import os

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.tables.collect import collect
from benchmarks.tables.published import load_published
from pretrain.runtime import files
from tests.benchmarks.tables.cells import OFFICIAL, SCENES, VALUES, write_cell, write_clove
from tests.benchmarks.tables.pages import (
    RANDOM,
    csv_lines,
    page_of,
    row_of,
    table_rows,
    write_matrix,
)


def test_mean_and_sample_std_over_seeds_equal_numpys(tmp_path):
    values = [12.5, 13.75, 11.2]
    for seed, value in enumerate(values):
        write_clove(tmp_path, seed, metrics=VALUES | {"segm/AP50": value})
    assert collect(tmp_path) == 0
    row = row_of(page_of(tmp_path), "clove", "### `segm/AP`")
    assert row["AP50 measured"] == f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"
    assert row["AP measured"] == "11.00 ± 0.00"
    assert row["n"] == "3"
    write_cell(tmp_path)
    collect(tmp_path)
    row = row_of(page_of(tmp_path), "random")
    assert (row["AP measured"], row["n"]) == ("12.50", "1")  # of one seed, the value alone


def test_published_values_have_columns_with_protocol_and_source(tmp_path):
    write_clove(tmp_path, data=OFFICIAL)
    write_cell(tmp_path, data=OFFICIAL)
    collect(tmp_path)
    page = page_of(tmp_path)
    clove = row_of(page, "clove")
    assert (clove["AP measured"], clove["AP published"]) == ("12.50", "41.2")
    assert (clove["AP75 published"], clove["protocol"]) == ("45.0", "B")
    assert clove["source"] == "CLoVE, table 2"
    assert row_of(page, "–", method="random")["protocol"] == "B"
    assert row_of(page, "–", "### `segm/AP`", method="random")["protocol"] == "A"
    for column in clove:
        if column.startswith("AP"):
            assert column.endswith((" measured", " published", " measured − published"))


def test_beside_other_data_published_values_are_folded_away(tmp_path, capsys):
    write_clove(tmp_path, depth=18)
    write_cell(tmp_path)
    collect(tmp_path)
    page, printed = page_of(tmp_path), capsys.readouterr().out
    assert "Trunk: ResNet-18 (clove), ResNet-50 (random)." in page
    shown, _, folded = page.partition("<details>")
    assert row_of(shown, "clove")["AP measured"] == "12.50"
    assert "published |" not in shown
    clove = row_of(folded, "clove")
    assert (clove["AP published"], clove["source"]) == ("41.2", "CLoVE, table 2")
    assert "measured |" not in folded
    assert "- B (as in configs/transfer): " in folded
    assert printed == shown


def test_official_difference_stays_within_one_protocol_and_its_config(tmp_path):
    write_clove(tmp_path, metrics=VALUES | {"bbox/AP": 41.5}, data=OFFICIAL)
    write_cell(tmp_path, "resim", method="resim", pretrain_epochs=200, data=OFFICIAL)
    collect(tmp_path)
    # of the same schedule, but for example with another learning rate
    write_cell(tmp_path, data=OFFICIAL, config_sha256="bad" * 20)
    collect(tmp_path)
    page = page_of(tmp_path)
    assert "not the official data" not in page
    assert row_of(page, "clove")["AP measured − published"] == "+0.30"
    resim = row_of(page, "resim")  # published under C, ours is B
    assert resim["protocol"] == "C"
    assert resim["AP measured − published"] == "–"
    assert row_of(page, "random")["AP measured − published"] == "–"
    said = f"that protocol's own ({load_published()['coco_fpn'].config_sha256[:8]})."
    assert page.count(said) == 1


def test_of_two_sources_a_method_stands_beside_the_one_under_our_protocol(tmp_path):
    changes = {"method": "supervised", "pretrain_epochs": 90}
    write_cell(tmp_path, "torchvision", data=OFFICIAL, **changes)
    collect(tmp_path)
    page = page_of(tmp_path)
    ours = row_of(page, "torchvision")
    assert (ours["protocol"], ours["source"]) == ("B", "PixPro's README")
    assert (ours["AP published"], ours["AP50 published"]) == ("39.7", "–")
    assert ours["AP measured − published"] == "-27.20"
    other = row_of(page, "–", method="supervised")
    assert (other["protocol"], other["source"]) == ("A", "CLoVE, table 2")


def test_two_published_rows_that_fit_alike_are_compared_with_neither(tmp_path):
    metrics = {"bbox/AP": 57.0, "bbox/AP50": 82.0, "bbox/AP75": 63.0}
    moco = {"method": "moco", "pretrain_epochs": 200, "data": OFFICIAL}
    write_cell(tmp_path, "moco", "voc_c4", metrics=metrics, **moco)
    collect(tmp_path)
    page = page_of(tmp_path)
    assert row_of(page, "moco")["AP published"] == "–"
    assert "beside no published row: more than one has this method and epochs" in page
    rows = [row for row in table_rows(page) if row["method"] == "moco" and row["epochs"] == "200"]
    assert [row["AP published"] for row in rows] == ["–", "55.9", "57.0"]


def test_a_task_of_ones_own_has_the_metrics_of_its_cells_in_the_files_order(tmp_path):
    first = {"segm/AP50": 4.0, "segm/AP": 3.0, "bbox/APl": 2.0, "quality": 1.0}
    second = {"segm/AP50": 8.0, "segm/AP": 7.0, "bbox/APs": 6.0, "quality": 5.0}
    for init, metrics in (("first", first), ("second", second)):
        write_cell(tmp_path, init, "my_task", metrics=metrics, main_metric="segm/AP")
    assert collect(tmp_path) == 0
    page = page_of(tmp_path)
    headings = [line for line in page.splitlines() if line.startswith("###")]
    assert headings == ["### `segm/AP50`, `segm/AP`", "### `bbox/APl`, `bbox/APs`", "### `quality`"]
    columns = list(table_rows(page, headings[0])[0])
    assert columns[4:] == ["AP50 measured", "AP measured", "notes"]
    boxes = row_of(page, "first", headings[1])
    assert (boxes["APl measured"], boxes["APs measured"]) == ("2.00", "–")
    assert row_of(page, "second", headings[2])["quality measured"] == "5.00"


def test_a_metric_that_a_seed_lacks_is_not_averaged_over_the_others(tmp_path):
    write_cell(tmp_path, task="my_task", seed=0, metrics={"bbox/AP": 3.0, "bbox/APl": 2.0})
    write_cell(tmp_path, task="my_task", seed=1, metrics={"bbox/AP": 5.0})
    collect(tmp_path)
    row = row_of(page_of(tmp_path), "random")
    assert (row["AP measured"], row["APl measured"]) == ("4.00 ± 1.41", "–")
    assert "not every seed has a value of bbox/APl" in page_of(tmp_path)


def test_caption_says_which_inits_ran_under_another_config(tmp_path):
    write_clove(tmp_path)
    write_cell(tmp_path, config_sha256="bad" * 20, iterations=90)
    collect(tmp_path)
    page = page_of(tmp_path)
    assert "Config: c0ffeec0 (clove), badbadba (random)." in page
    assert "Iterations: 80 (clove), 90 (random)." in page
    assert "not all run under one config" in page


@pytest.mark.parametrize(("value", "said"), [(0.99, True), (1.0, False)])
def test_caption_of_a_run_that_learnt_nothing_says_so(tmp_path, value, said):
    write_clove(tmp_path, metrics=VALUES | {"bbox/AP": 0.2})
    write_cell(tmp_path, metrics=VALUES | {"bbox/AP": value})
    collect(tmp_path)
    page = page_of(tmp_path)
    assert "(`coco_fpn`): on scenes, not the official data\n" in page
    assert "no difference is computed" in page
    assert not any("−" in column for column in table_rows(page)[0])
    assert ("shows the road, not quality" in page_of(tmp_path)) == said


@pytest.mark.parametrize("changed", ["config_sha256", "weights_sha256"])
def test_seeds_made_differently_are_not_averaged(tmp_path, changed):
    write_clove(tmp_path, 0)
    write_clove(tmp_path, 1, **{changed: "bad" * 20, "metrics": VALUES | {"bbox/AP": 20.0}})
    collect(tmp_path)
    page = page_of(tmp_path)
    rows = [row for row in table_rows(page) if row["init"] == "clove"]
    assert [row["AP measured"] for row in rows] == ["12.50", "20.00"]
    assert all(row["notes"] for row in rows)
    assert "not averaged with the other rows of clove" in page


def test_seeds_of_random_weights_are_averaged_whatever_their_weights(tmp_path):
    write_cell(tmp_path, seed=0, weights_sha256="aa" * 32)
    write_cell(tmp_path, seed=1, weights_sha256="bb" * 32)
    collect(tmp_path)
    assert row_of(page_of(tmp_path), "random")["n"] == "2"


def test_missing_cells_are_shown_as_missing(tmp_path):
    write_clove(tmp_path, 0)
    inits = {
        "clove": {"method": "clove", "epochs": 200},
        "pixpro": {"method": "pixpro", "epochs": 400},
    }
    write_matrix(tmp_path, ["coco_fpn"], inits, [0, 1])
    assert collect(tmp_path) == 0
    page = page_of(tmp_path)
    assert row_of(page, "clove")["n"] == "1 of 2"
    assert row_of(page, "pixpro")["n"] == "0 of 2"
    assert row_of(page, "pixpro")["AP measured"] == "missing"
    assert "## Missing cells (3)" in page
    assert "- `clove/coco_fpn/seed1`" in page
    missing = [line for line in csv_lines(tmp_path) if line["kind"] == "missing"]
    assert [(line["init"], line["task"], line["seed"]) for line in missing] == [
        ("clove", "coco_fpn", "1"),
        ("pixpro", "coco_fpn", "0"),
        ("pixpro", "coco_fpn", "1"),
    ]


def test_a_task_that_was_asked_for_has_its_table_before_any_cell_is_finished(tmp_path):
    write_clove(tmp_path)
    write_matrix(tmp_path, ["coco_fpn", "voc_c4", "my_task"], {"a": RANDOM}, [0])
    assert collect(tmp_path) == 0
    page = page_of(tmp_path)
    section = page[page.index("## PASCAL VOC") :]
    assert "No cell of this task is finished: nothing was measured." in section
    assert "not the official data" not in section
    row = row_of(section, "a")
    assert (row["n"], row["AP measured"], row["AP published"]) == ("0 of 1", "missing", "33.8")
    assert page.count("(`coco_fpn`)") == 1
    assert "- `a/my_task/seed0`" in page  # nobody knows its metrics yet


def test_without_an_init_only_published_values_have_columns(tmp_path):
    write_matrix(tmp_path, list(load_published()), {}, [])
    assert main(["collect", str(tmp_path)]) == 0
    page = page_of(tmp_path)
    assert "AP published |" in page
    assert "measured |" not in page
    assert {line["kind"] for line in csv_lines(tmp_path)} == {"published"}
    for table in json.loads((tmp_path / "results.json").read_text())["tables"]:
        assert table["data"] is None
        assert not any(row["measured"] for row in table["rows"])


def test_metrics_that_nobody_published_have_a_narrow_table_of_their_own(tmp_path):
    metrics = dict.fromkeys(load_published()["lvis_fpn"].metrics, 20.0)
    write_cell(tmp_path, "random", "lvis_fpn", metrics=metrics, data=OFFICIAL)
    collect(tmp_path)
    page = page_of(tmp_path)
    rare = table_rows(page, "### `segm/APr`, `segm/APc`, `segm/APf`")
    assert [row["init"] for row in rare] == ["random"]
    assert rare[0]["APr measured"] == "20.00"
    assert not any("published" in column for column in rare[0])
    assert page.count("No published values of these are known.") == 2
    # every row of the LVIS table is uncertain
    assert not any("−" in column for column in table_rows(page)[0])


def test_two_data_fingerprints_never_share_a_table_and_count_once(tmp_path):
    other = SCENES | {"sha256": "77" * 32}
    write_clove(tmp_path, 0)
    write_clove(tmp_path, 1, data=other)
    write_cell(tmp_path, seed=0)
    inits = {"clove": {"method": "clove", "epochs": 400}, "nowhere": RANDOM, "random": RANDOM}
    write_matrix(tmp_path, ["coco_fpn"], inits, [0, 1])
    collect(tmp_path)
    page = page_of(tmp_path)
    counts = [
        {row["init"]: row["n"] for row in table_rows(section) if row["init"] != "–"}
        for section in page.split("## COCO")[1:]
    ]
    assert counts == [
        {"clove": "1", "nowhere": "0 of 2", "random": "1 of 2"},
        {"clove": "1", "nowhere": "0 of 2", "random": "0 of 1"},
    ]
    assert "## Missing cells (3)" in page


def test_an_output_of_ones_own_or_that_cannot_be_written(tmp_path, capsys):
    write_cell(tmp_path / "results", data=OFFICIAL)
    arguments = ["collect", str(tmp_path / "results"), "--output"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == page_of(tmp_path / "out")
    assert not (tmp_path / "results" / "RESULTS.md").exists()
    file = tmp_path / "a_file"
    file.write_text("mine")
    assert main([*arguments, str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}: not written (")
    assert "name another place" in error
    assert file.read_text() == "mine"


def test_a_full_disk_is_named(tmp_path, capsys, monkeypatch):
    def write_nothing(path, fill):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_cell(tmp_path)
    monkeypatch.setattr(files, "write_atomically", write_nothing)
    assert main(["collect", str(tmp_path)]) == 2
    said = f"{tmp_path}: not written (No space left on device). Make room there"
    assert said in capsys.readouterr().err
