"""The published values are the paper's, and the tasks are those that transfer can run."""

import csv
from pathlib import Path

import pytest

from benchmarks.tables import published
from benchmarks.tables.published import PUBLISHED_YAML, by_group, load_published
from pretrain.runtime.config import load_yaml
from transfer.config import config_sha256, resolve
from transfer.tasks import TASKS

GOLDEN = Path(__file__).parents[2] / "golden" / "paper_results.csv"

PAPER_TASKS = {
    ("coco", "R50-C4"): "coco_c4",
    ("coco", "R50-FPN"): "coco_fpn",
    ("lvis", "R50-FPN"): "lvis_fpn",
    ("cityscapes", "R50-FPN"): "cityscapes_fpn",
    ("coco_keypoints", "R50-FPN"): "keypoints_fpn",
}
METHODS = {"Supervised": "supervised", "Rand init": "random"}
GROUPS = {"bb": "bbox", "mb": "segm", "kp": "keypoints", "": "segm"}


def paper_values() -> dict[tuple, str]:
    """``(task, method, epochs, metric) -> value``, from the paper's tables as transcribed."""
    values = {}
    with open(GOLDEN) as file:
        for line in csv.DictReader(file):
            name, _, group = line["metric"].partition("_")
            method = METHODS.get(line["method"], line["method"].lower())
            epochs = int(line["pretrain_epochs"]) if line["pretrain_epochs"] else None
            task = PAPER_TASKS[line["task"], line["backbone"]]
            values[task, method, epochs, f"{GROUPS[group]}/{name}"] = line["value"]
    return values


def test_the_199_values_of_the_paper_are_published_digit_for_digit_and_no_other_as_its_own():
    published = [
        ((task.name, row.method, row.epochs, metric), str(value))
        for task in load_published().values()
        for row in task.rows
        if row.source.startswith("CLoVE")
        for metric, value in row.values.items()
    ]
    assert dict(published) == paper_values()
    assert len(published) == 199


def test_tasks_and_metrics_are_those_of_transfer():
    published = load_published()
    assert list(published) == list(TASKS)
    for name, task in TASKS.items():
        assert published[name].metrics == tuple(task.metrics)
        assert published[name].main_metric == task.main_metric


def test_smoke_covers_every_task():
    assert load_yaml("configs/benchmarks/smoke.yaml")["tasks"] == list(TASKS)


def test_baselines_of_cityscapes_that_are_no_targets_stand_beside_those_that_are():
    rows = load_published()["cityscapes_fpn"].rows
    own, other = (
        {row.method: row for row in rows if row.source.startswith("CLoVE") == clove}
        for clove in (True, False)
    )
    assert {method: list(row.values.values()) for method, row in other.items()} == {
        "supervised": [32.9, 59.6],
        "random": [25.4, 51.1],
    }
    for method, row in other.items():
        assert set(row.protocols.values()) == {"A"}
        assert own[method].remark.startswith("not a target")


@pytest.mark.parametrize("name", TASKS)
def test_schedule_and_config_sha256_are_those_of_the_tasks_config(name):
    config, task = resolve(TASKS[name].config), load_published()[name]
    schedule = (task.schedule["iterations"], task.schedule["images_per_batch"])
    assert schedule == (config.SOLVER.MAX_ITER, config.SOLVER.IMS_PER_BATCH)
    now = config_sha256(config)
    assert task.config_sha256 == now, (
        f"{TASKS[name].config} has changed, or a key is new. If it still is what the protocol of "
        f"{name} in {PUBLISHED_YAML} says, write there config_sha256: {now}; results of before "
        "then have no difference to published values. Otherwise undo the change"
    )


@pytest.mark.parametrize("name", TASKS)
def test_every_row_is_well_formed(name):
    task = load_published()[name]
    assert task.protocol in task.protocols
    for source, rows in load_yaml(PUBLISHED_YAML)["tasks"][name].get("published", {}).items():
        for row in rows:
            for group, numbers in row["values"].items():
                assert numbers is None or len(numbers) <= len(by_group(task.metrics)[group])
        assert rows, source
    for row in task.rows:
        assert row.method in published.METHODS
        assert row.epochs is None or row.epochs > 0
        assert row.values
        assert all(isinstance(value, float) for value in row.values.values())  # 41.0, not 41
        assert set(row.protocols.values()) <= set(task.protocols)
        assert row.remark or "uncertain" not in row.protocols.values()  # which says why


def test_mixed_baseline_has_a_protocol_for_boxes_and_another_for_masks():
    rows = load_published()["coco_fpn"].rows
    (random,) = [row for row in rows if row.method == "random" and "CLoVE" in row.source]
    assert (random.protocols["bbox/AP50"], random.protocols["segm/AP50"]) == ("B", "A")
