"""SCENES.md from kept replicates: statistics by the textbook, and nothing hidden."""

import statistics

import numpy as np

from benchmarks.evidence import replicate
from benchmarks.evidence.page import SCENES_MD, TEMPLATE, write
from benchmarks.evidence.picture import draw
from benchmarks.evidence.rows import RESULTS, read_replicates
from tests.benchmarks.evidence.lab import (
    page_of,
    rows_of,
    write_pairs,
    write_replicate,
    write_result,
)
from tests.benchmarks.evidence.test_paired import slow_holm, slow_paired_p

FULL_HEADING = "## Full fine-tuning (`full`)"
TASKS = ("coco_c4", "coco_fpn", "keypoints_fpn", "voc_c4")


def p_cell(p) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def test_the_table_is_what_the_formulas_give(tmp_path):
    rng = np.random.default_rng(2)
    values = {task: rng.normal((24, 20), (2, 3), (6, 2)).round(3).tolist() for task in TASKS}
    for n in range(6):
        both = {
            init: {task: values[task][n][column] for task in TASKS}
            for column, init in enumerate(("clove", "random"))
        }
        write_replicate(tmp_path, 100 + n, {"full": both})
    text = page_of(tmp_path)
    rows = rows_of(text, FULL_HEADING)
    assert [row["task"] for row in rows] == list(TASKS)
    p_values = {task: slow_paired_p(*zip(*values[task], strict=True)) for task in TASKS}
    corrected = dict(zip(TASKS, slow_holm(list(p_values.values())), strict=True))
    for row in rows:
        task = row["task"]
        clove, random = zip(*values[task], strict=True)
        differences = [a - b for a, b in zip(clove, random, strict=True)]
        for column, own in (("clove", clove), ("random", random)):
            assert row[column] == f"{statistics.fmean(own):.2f} ± {statistics.stdev(own):.2f}"
            assert row[f"n of {column}"] == "6"
        wanted = f"{statistics.fmean(differences):+.2f} ± {statistics.stdev(differences):.2f}"
        assert (row["clove − random"], row["pairs"]) == (wanted, "6")
        assert row["p"] == p_cell(p_values[task])
        assert row["p (Holm)"] == p_cell(corrected[task])
    metrics = {row["task"]: row["metric"] for row in rows}
    assert metrics["keypoints_fpn"] == "keypoints/AP"
    said = " ".join(text.split())
    assert "Replicates: 100, 101, 102, 103, 104, 105. Comparisons in this table: 4." in said
    found = [task for task in TASKS if p_values[task] < 0.05]
    kept = [task for task in TASKS if corrected[task] < 0.05]
    assert 0 < len(kept) < len(found)
    assert (
        f"with p < 0.05 in {len(found)} of them and below it in 0; after Holm's correction in "
        f"{len(kept)} and 0." in said
    )


def test_a_task_that_one_init_misses_is_in_no_pair(tmp_path):
    write_pairs(tmp_path, [10.0, 11.0, 12.5, 13.0], [9.0, 9.5, 9.7, 9.1])
    write_replicate(tmp_path, 104, {"full": {"clove": {"coco_fpn": 99.0}}})
    write_replicate(tmp_path, 105, {"full": {"random": {"coco_c4": 5.0}}})
    text = page_of(tmp_path)
    row = rows_of(text, FULL_HEADING)[1]
    assert (row["n of clove"], row["n of random"], row["pairs"]) == ("5", "4", "4")
    assert row["clove − random"] == "+2.30 ± 1.31"
    assert row["clove"] == "29.10 ± 39.09"
    assert row["p"] == p_cell(slow_paired_p([10.0, 11.0, 12.5, 13.0], [9.0, 9.5, 9.7, 9.1]))
    row = rows_of(text, FULL_HEADING)[0]
    assert (row["clove"], row["n of clove"], row["clove − random"]) == ("–", "0", "–")


def test_what_is_not_tested_is_not_counted_and_no_nan(tmp_path):
    for n, (a, b, c) in enumerate([(10.1, 11.0, 9.0), (12.3, 11.5, 9.9), (11.7, 12.0, 9.4)]):
        clove = {"coco_c4": a, "coco_fpn": a, "voc_c4": b}
        random = {"coco_c4": a, "coco_fpn": a - 0.1, "voc_c4": c}
        if n < 2:
            clove["keypoints_fpn"], random["keypoints_fpn"] = b, c
        write_replicate(tmp_path, 100 + n, {"full": {"clove": clove, "random": random}})
    text = page_of(tmp_path)
    same, shifted, few, tested = rows_of(text, FULL_HEADING)
    assert (same["clove − random"], same["p"], same["p (Holm)"]) == ("+0.00 ± 0.00", "–", "–")
    assert (shifted["clove − random"], shifted["p"], few["p"]) == ("+0.10 ± 0.00", "–", "–")
    assert tested["p"] == tested["p (Holm)"] != "–"
    assert "Comparisons in this table: 1." in text
    assert "nan" not in text.lower()


def test_frozen_trunks_and_ablations_have_tables_of_their_own(tmp_path):
    values = {
        "full": (20.0, 21.0, 23.0, 22.5),
        "frozen": (8.0, 9.5, 9.0, 8.7),
        "no_locals": (18, 20.5, 21),
    }
    for n in range(4):
        own = {
            regime: {"clove": {"coco_fpn": own[n]}, "random": {"coco_fpn": 5.0 + n % 2}}
            for regime, own in values.items()
            if n < len(own)
        }
        own.get("no_locals", {}).pop("random", None)
        write_replicate(tmp_path, 100 + n, own)
    text = page_of(tmp_path)
    frozen = rows_of(text, "## Frozen trunk: only neck and heads learn (`frozen`)")[0]
    assert (frozen["clove"], frozen["n of clove"]) == ("8.80 ± 0.63", "4")
    (row,) = rows_of(text, "### `coco_fpn`, `bbox/AP`")
    assert (row["regime"], row["n of ablation"], row["n of full"]) == ("no_locals", "3", "4")
    assert (row["pairs"], row["ablation − full"]) == ("3", "-1.50 ± 0.87")
    assert row["p"] == p_cell(slow_paired_p((18, 20.5, 21), (20, 21, 23)))
    assert "`no_locals`: clove against random" not in text
    assert "- `no_locals`: no local crops in pretraining." in text


def test_every_regime_of_the_repository_is_explained():
    names = {path.stem.removeprefix("scenes-") for path in replicate.CONFIGS.glob("scenes-*.yaml")}
    for name in names - {"frozen"}:
        assert f"\n- `{name}`: " in TEMPLATE.read_text()


def test_a_second_run_stands_beside_the_first_and_the_spread_of_all(tmp_path):
    write_pairs(tmp_path, [10.0, 11.0, 12.0], [9.0, 9.5, 10.0])
    without = rows_of(page_of(tmp_path), FULL_HEADING)
    write_replicate(tmp_path, 100, {"full": {"clove": {"coco_fpn": 10.5}}}, run=2)
    high = {init: {"coco_fpn": 14.0} for init in ("clove", "random")}
    write_replicate(tmp_path, 102, {"full": high}, run=2)
    text = page_of(tmp_path)
    rows = rows_of(text, "## The same seed, run a second time")
    assert [list(row.values()) for row in rows] == [
        ["100", "full", "clove", "coco_fpn", "10.00", "10.50", "11.00 ± 1.00", "-0.5"],
        ["102", "full", "clove", "coco_fpn", "12.00", "14.00", "11.00 ± 1.00", "+3.0"],
        ["102", "full", "random", "coco_fpn", "10.00", "14.00", "9.50 ± 0.50", "+9.0"],
    ]
    assert "Of its values 1 of 3 are within 2 standard deviations" in " ".join(text.split())
    assert rows_of(text, FULL_HEADING) == without
    part = text.split("run a second time")[1].split("##")[0]
    assert [line[:13] for line in part.splitlines() if line.startswith("- ")] == [
        "- 100: commit",
        "- 102: commit",
    ]


def test_machines_hours_commits_and_fingerprints_of_each_replicate_are_there(tmp_path):
    write_pairs(tmp_path, [10.0, 11.0], [9.0, 9.5])
    changes = {"hardware": "CPU, 64 cores", "git_commit": "abcdef01" * 5 + "+changes"}
    changes["data_sha256"] = "fa11" * 16
    write_result(tmp_path, 101, "full", "random", "coco_fpn", 9.5, **changes)
    text = page_of(tmp_path)
    rows = {(row["seed"], row["regime"]): row for row in rows_of(text, "## Machines and hours")}
    full = rows["100", "full"]
    assert (full["pretraining"], full["fine-tuning"], full["conversion"]) == ("0.75", "1.00", "–")
    assert rows["101", "full"]["machine"] == "CPU, 2 cores; CPU, 64 cores"
    assert rows["100", "–"]["scenes"] == "0.02"
    lines = [line for line in text.splitlines() if line.startswith("- 10")]
    assert lines[0] == (
        "- 100: commit deadbeef; easy scenes of 96 px, 9 unlabelled, 4 to train, 2 to test; "
        "pretraining full 00000000; data coco_fpn 5ce7e55c."
    )
    assert "commit abcdef01+changes, deadbeef;" in lines[1]
    assert "coco_fpn 5ce7e55c and fa11fa11." in lines[1]


def test_the_committed_page_and_picture_are_what_the_committed_results_give(tmp_path):
    # Else: python -m benchmarks.evidence page
    write(RESULTS, tmp_path / "SCENES.md")
    for name in ("SCENES.md", "SCENES.svg"):
        assert (tmp_path / name).read_bytes() == SCENES_MD.with_name(name).read_bytes()
    assert "![Learning curves](SCENES.svg)" in SCENES_MD.read_text()
    assert draw(read_replicates()) == SCENES_MD.with_suffix(".svg").read_text()
