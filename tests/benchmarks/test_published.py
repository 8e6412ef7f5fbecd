"""The published values are the paper's, and the tasks are those that transfer can run."""

import csv
from pathlib import Path

import pytest
import yaml

from benchmarks.published import PUBLISHED_YAML, load_published
from pretrain.runtime.config import ConfigError, load_yaml

GOLDEN = Path(__file__).parents[1] / "golden" / "paper_results.csv"

TASKS = {("coco", "R50-C4"): "coco_c4", ("coco", "R50-FPN"): "coco_fpn"}
METHODS = {"Supervised": "supervised", "Rand init": "random"}
GROUPS = {"bb": "bbox", "mb": "segm"}


def paper_values() -> dict[tuple, float]:
    """``(task, method, epochs, metric) -> value``, from the paper's tables as transcribed."""
    values = {}
    with open(GOLDEN) as file:
        for line in csv.DictReader(file):
            task = TASKS.get((line["task"], line["backbone"]))
            if task is None:
                continue
            name, group = line["metric"].split("_")
            method = METHODS.get(line["method"], line["method"].lower())
            epochs = int(line["pretrain_epochs"]) if line["pretrain_epochs"] else None
            values[task, method, epochs, f"{GROUPS[group]}/{name}"] = float(line["value"])
    return values


def test_every_coco_value_of_the_paper_is_published_and_no_other():
    published = {
        (task.name, row.method, row.epochs, metric): value
        for task in load_published().values()
        for row in task.rows
        for metric, value in row.values.items()
        if task.name in TASKS.values()
    }
    assert published == paper_values()
    assert len(published) == 108


def test_tasks_and_metrics_are_those_of_transfer():
    from transfer.tasks import TASKS

    published = load_published()
    assert set(published) == set(TASKS)
    for name, task in TASKS.items():
        assert published[name].metrics == tuple(task.metrics)
        assert published[name].main_metric == task.main_metric


def test_smoke_covers_every_task():
    from transfer.tasks import TASKS

    assert load_yaml("configs/benchmarks/smoke.yaml")["tasks"] == list(TASKS)


def test_every_row_names_its_source_and_a_protocol_that_is_explained():
    for task in load_published().values():
        for row in task.rows:
            assert row.source
            assert set(row.protocols.values()) <= set(task.protocols)


def test_mixed_baseline_has_a_protocol_for_boxes_and_another_for_masks():
    (random,) = [row for row in load_published()["coco_fpn"].rows if row.method == "random"]
    assert random.protocols["bbox/AP50"] == "B"
    assert random.protocols["segm/AP50"] == "A"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remarks": "x"}, "unknown key remarks (did you mean remark?)"),
        ({"method": "colve"}, "unknown method colve (did you mean clove?)"),
        ({"protocol": "Z"}, "unknown protocol Z"),
        ({"values": [1.0, 2.0]}, "expected 6 numbers"),
        ({"values": [1.0] * 5 + ["56.9}"]}, "expected 6 numbers"),
        ({"protocol": {"bbox": "B"}}, "expected a letter for each of"),
    ],
)
def test_bad_row_of_a_users_own_file_is_named(tmp_path, change, message):
    content = yaml.safe_load(PUBLISHED_YAML.read_text())
    content["tasks"]["coco_fpn"]["rows"][1].update(change)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load_published(path)
    assert "coco_fpn: row 2" in str(error.value)
    assert message in str(error.value)
