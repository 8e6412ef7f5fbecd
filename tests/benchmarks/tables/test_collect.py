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


def test_one_seed_has_a_value_and_no_std(tmp_path):
    write_cell(tmp_path)
    collect(tmp_path)
    row = row_of(page_of(tmp_path), "random")
    assert row["AP measured"] == "12.50"
    assert row["n"] == "1"
    assert "nan" not in page_of(tmp_path).lower()


def test_published_values_have_columns_with_protocol_and_source(tmp_path):
    write_clove(tmp_path)
    write_cell(tmp_path)
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
            assert column.endswith((" measured", " published"))


def test_published_rows_without_an_init_measure_nothing(tmp_path):
    write_clove(tmp_path)
    collect(tmp_path)
    rows = [row for row in table_rows(page_of(tmp_path)) if row["init"] == "–"]
    assert len(rows) == len(load_published()["coco_fpn"].rows) - 1
    assert {row["AP measured"] for row in rows} == {"–"}
    assert {row["n"] for row in rows} == {"–"}


def test_unofficial_table_says_so_and_computes_no_difference(tmp_path):
    write_cell(tmp_path)
    collect(tmp_path)
    page = page_of(tmp_path)
    assert "(`coco_fpn`): on scenes, not the official data\n" in page
    assert "no difference is computed" in page
    assert not any("−" in column for column in table_rows(page)[0])


def test_official_difference_stays_within_one_protocol_and_its_config(tmp_path):
    write_clove(tmp_path, metrics=VALUES | {"bbox/AP": 41.5}, data=OFFICIAL)
    write_cell(tmp_path, "resim", method="resim", pretrain_epochs=200, data=OFFICIAL)
    collect(tmp_path)
    assert "not the task's own" not in page_of(tmp_path)
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
    said = (
        "No difference is computed where the config is not the task's own "
        f"({load_published()['coco_fpn'].config_sha256[:8]}), which is protocol B's."
    )
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
    write_cell(tmp_path, "moco", "voc_c4", method="moco", pretrain_epochs=200, metrics=metrics)
    collect(tmp_path)
    page = page_of(tmp_path)
    assert row_of(page, "moco")["AP published"] == "–"
    assert "beside no published row: more than one has this method and these epochs" in page
    rows = [row for row in table_rows(page) if row["method"] == "moco" and row["epochs"] == "200"]
    assert [row["AP published"] for row in rows] == ["–", "55.9", "57.0"]


def test_metrics_that_nobody_published_have_a_narrow_table_of_their_own(tmp_path):
    metrics = dict.fromkeys(load_published()["lvis_fpn"].metrics, 20.0)
    write_cell(tmp_path, "random", "lvis_fpn", metrics=metrics, data=OFFICIAL)
    collect(tmp_path)
    page = page_of(tmp_path)
    assert row_of(page, "random")["AP75 published"] == "12.5"
    rare = table_rows(page, "### `segm/APr`, `segm/APc`, `segm/APf`")
    assert [row["init"] for row in rare] == ["random"]
    assert rare[0]["APr measured"] == "20.00"
    assert not any("published" in column for column in rare[0])
    assert page.count("No published values of these are known.") == 2
    # every row of the LVIS table is uncertain
    assert "no published row is known to be B's" in page
    assert not any("−" in column for column in table_rows(page)[0])
    published = [line for line in csv_lines(tmp_path) if line["kind"] == "published"]
    assert len(published) == 48
    assert not any(line["metric"].endswith(("APr", "APc", "APf")) for line in published)


def test_two_data_fingerprints_never_share_a_table(tmp_path):
    write_clove(tmp_path)
    write_cell(tmp_path, data=SCENES | {"sha256": "77" * 32})
    collect(tmp_path)
    sections = page_of(tmp_path).split("## COCO")[1:]
    assert len(sections) == 2
    for section, init, other in zip(
        sections, ("clove", "random"), ("random", "clove"), strict=True
    ):
        assert f"| {init} " in section
        assert {row["init"] for row in table_rows(section)} == {init, "–"}
        assert other not in {row["init"] for row in table_rows(section)}


OTHER_SCENES = SCENES | {"sha256": "77" * 32}


def write_on_two_data(folder):
    """A seed of clove on each, both of random on the first."""
    write_clove(folder, 0)
    write_clove(folder, 1, data=OTHER_SCENES)
    write_cell(folder, seed=0)
    write_cell(folder, seed=1)


def test_cells_that_are_done_on_other_data_are_not_missing(tmp_path):
    write_on_two_data(tmp_path)
    write_cell(tmp_path, "elsewhere", data=OTHER_SCENES)
    inits = {name: RANDOM for name in ("elsewhere", "nowhere", "random")}
    inits["clove"] = {"method": "clove", "epochs": 400}
    write_matrix(tmp_path, ["coco_fpn"], inits, [0, 1, 2])
    collect(tmp_path)
    page = page_of(tmp_path)
    counts = [
        {row["init"]: row["n"] for row in table_rows(section) if row["init"] != "–"}
        for section in page.split("## COCO")[1:]
    ]
    assert counts == [
        {"clove": "1 of 2", "nowhere": "0 of 3", "random": "2 of 3"},
        {"clove": "1 of 2", "nowhere": "0 of 3", "elsewhere": "1 of 3"},
    ]
    assert "on other data: seed 1" in page.split("## COCO")[1]
    assert "## Missing cells (7)" in page  # 1 of clove, 2 of elsewhere, 3 of nowhere, 1 of random


def test_without_a_matrix_a_seed_on_other_data_is_not_missing(tmp_path):
    write_on_two_data(tmp_path)
    collect(tmp_path)
    assert row_of(page_of(tmp_path).split("## COCO")[1], "clove")["n"] == "1"
    assert "missing" not in page_of(tmp_path)


def test_of_three_seeds_two_that_are_not_averaged_are_one_of_three_each(tmp_path):
    write_clove(tmp_path, 0)
    write_clove(tmp_path, 1, config_sha256="bad" * 20)
    inits = {"clove": {"method": "clove", "epochs": 400}}
    write_matrix(tmp_path, ["coco_fpn"], inits, [0, 1, 2])
    collect(tmp_path)
    rows = [row for row in table_rows(page_of(tmp_path)) if row["init"] == "clove"]
    assert [row["n"] for row in rows] == ["1 of 3", "1 of 3"]


def test_tables_come_in_the_tasks_order_and_own_tasks_after_them(tmp_path):
    own = {"metrics": {"boxes/quality": 3.0}, "main_metric": "boxes/quality"}
    for task, changes in (("another", own), ("coco_fpn", {}), ("coco_c4", {})):
        write_cell(tmp_path, task=task, **changes)
    assert collect(tmp_path) == 0
    page = page_of(tmp_path)
    assert page.index("`coco_c4`") < page.index("`coco_fpn`") < page.index("`another`")
    assert table_rows(page, "### `boxes/quality`")[0]["quality measured"] == "3.00"


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


def test_caption_names_data_schedule_hardware_and_config(tmp_path):
    write_cell(tmp_path)
    collect(tmp_path)
    caption = (
        "Data: scenes, 200 training and 100 test images, fingerprint 5ce7e55c. Iterations: 80. "
        "Images per batch: 4. Hardware: CPU, 2 cores. Config: c0ffeec0."
    )
    assert caption in page_of(tmp_path)
    assert "not all run under one config" not in page_of(tmp_path)


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
    assert ("shows the road, not quality" in page_of(tmp_path)) == said


def test_the_road_is_shown_by_the_metric_that_ranks_the_table(tmp_path):
    """Of a task of one's own, where another cell's main metric is another one."""
    write_cell(tmp_path, "a", "mine", metrics={"bbox/AP": 0.5}, main_metric="bbox/AP")
    other = {"bbox/AP": 0.25, "quality": 90.0}
    write_cell(tmp_path, "b", "mine", metrics=other, main_metric="quality")
    collect(tmp_path)
    assert "Every bbox/AP is under 1: this run shows the road, not quality." in page_of(tmp_path)


def test_a_metric_that_the_data_cannot_give_is_a_dash_with_a_note(tmp_path):
    write_cell(tmp_path, metrics={k: v for k, v in VALUES.items() if k != "bbox/AP75"})
    assert collect(tmp_path) == 0
    row = row_of(page_of(tmp_path), "random")
    assert row["AP75 measured"] == "–"
    assert "not every seed has a value of bbox/AP75" in page_of(tmp_path)


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
    assert "the weights say 400 epochs, the benchmark's YAML 200" in page
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


def test_without_a_matrix_a_seed_that_others_have_is_missing(tmp_path):
    write_clove(tmp_path, 0)
    write_cell(tmp_path, seed=0)
    write_cell(tmp_path, seed=1)
    collect(tmp_path)
    assert row_of(page_of(tmp_path), "clove")["n"] == "1 of 2"
    assert "missing: seed 1" in page_of(tmp_path)


def test_output_and_published_file_are_the_users(tmp_path, capsys):
    write_cell(tmp_path / "results")
    own = tmp_path / "own.yaml"
    own.write_text("tasks: {coco_fpn: {title: Ours, metrics: [segm/AP], main_metric: segm/AP}}\n")
    arguments = ["collect", str(tmp_path / "results"), "--published", str(own)]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    page = page_of(tmp_path / "out")
    assert capsys.readouterr().out == page
    assert row_of(page, "random", "### `segm/AP`")["AP measured"] == "11.00"
    assert "published |" not in page
    assert not (tmp_path / "results" / "RESULTS.md").exists()


@pytest.mark.parametrize("output", ["a_file", "a_file/below", "/proc/x"])
def test_an_output_that_is_no_folder_is_named(tmp_path, capsys, output):
    write_cell(tmp_path / "results")
    (tmp_path / "a_file").write_text("mine")
    output = str(tmp_path / output)
    assert main(["collect", str(tmp_path / "results"), "--output", output]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {output}: tables not written (")
    assert "name another folder with --output" in error
    assert (tmp_path / "a_file").read_text() == "mine"


@pytest.mark.parametrize("file", ["RESULTS.md", "results.csv", "results.json", "results.tex"])
def test_a_full_disk_is_named(tmp_path, capsys, monkeypatch, file):
    write, before = files.write_atomically, write_cell(tmp_path).read_bytes()

    def write_until_full(path, fill):
        if path.name == file:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, fill)

    monkeypatch.setattr(files, "write_atomically", write_until_full)
    assert main(["collect", str(tmp_path)]) == 2
    said = f"{tmp_path}: tables not written (No space left on device). Make room there"
    assert said in capsys.readouterr().err
    assert write_cell(tmp_path).read_bytes() == before
