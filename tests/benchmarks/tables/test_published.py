"""The published values are the paper's, and the tasks are those that transfer can run."""

import csv
from collections import Counter
from pathlib import Path

import pytest
import yaml

from benchmarks.tables.published import PUBLISHED_YAML, load_published
from pretrain.runtime.config import ConfigError, load_yaml
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


def refusal(tmp_path, change) -> str:
    """What is said of published.yaml once ``change`` was made to its entry of coco_fpn."""
    content = yaml.safe_load(PUBLISHED_YAML.read_text())
    change(content["tasks"]["coco_fpn"])
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError) as error:
        load_published(path)
    return str(error.value)


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


@pytest.mark.parametrize("name", TASKS)
def test_schedule_is_that_of_the_tasks_config(name):
    solver = resolve(TASKS[name].config).SOLVER
    schedule = load_published()[name].schedule
    assert (schedule.iterations, schedule.images_per_batch) == (
        solver.MAX_ITER,
        solver.IMS_PER_BATCH,
    )


@pytest.mark.parametrize("name", TASKS)
def test_config_sha256_is_that_of_the_tasks_config(name):
    now = config_sha256(resolve(TASKS[name].config))
    assert load_published()[name].config_sha256 == now, (
        f"{TASKS[name].config} has changed, or a key is new. If it still is what the protocol of "
        f"{name} in {PUBLISHED_YAML} says, write there config_sha256: {now}; results of before "
        "then have no difference to published values. Otherwise undo the change"
    )


def test_smoke_covers_every_task():
    assert load_yaml("configs/benchmarks/smoke.yaml")["tasks"] == list(TASKS)


def test_every_row_names_its_source_and_a_protocol_that_is_explained():
    for task in load_published().values():
        for row in task.rows:
            assert isinstance(row.source, str)
            assert row.source
            assert set(row.protocols.values()) <= set(task.protocols)


def test_every_uncertain_row_says_why():
    rows = [row for task in load_published().values() for row in task.rows]
    uncertain = [row for row in rows if "uncertain" in row.protocols.values()]
    # coco_c4: ReSim, InsCon, DetCo, SlotCon; LVIS, Cityscapes, keypoints: all that CLoVE prints;
    # densepose_fpn_legacy: DetCo's table
    assert len(uncertain) == 4 + 8 + 8 + 9 + 5
    assert all(row.remark for row in uncertain)


def test_mixed_baseline_has_a_protocol_for_boxes_and_another_for_masks():
    rows = load_published()["coco_fpn"].rows
    (random,) = [row for row in rows if row.method == "random" and "CLoVE" in row.source]
    assert random.protocols["bbox/AP50"] == "B"
    assert random.protocols["segm/AP50"] == "A"


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


def test_values_that_a_source_does_not_print_are_absent():
    printed = Counter(
        (task.name, metric)
        for task in load_published().values()
        for row in task.rows
        for metric in row.values
    )
    assert printed["lvis_fpn", "segm/AP75"] == 8
    assert printed["lvis_fpn", "segm/APr"] == 0
    assert printed["densepose_fpn_legacy", "densepose_gps/AP75"] == 5  # DetCo's table
    assert printed["densepose_fpn_legacy", "densepose_gpsm/AP"] == 1  # the model zoo
    assert printed["voc_c4", "bbox/AP"] == printed["voc_c4", "bbox/AP75"] + 1  # DenseCL's README


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remarks": "x"}, "unknown key remarks (did you mean remark?)"),
        ({"method": "colve"}, "unknown method colve (did you mean clove?)"),
        ({"protocol": "Z"}, "unknown protocol Z"),
        ({"values": [1.0, 2.0]}, "values: expected a mapping"),
        ({"values": {"bbox": [1.0], "segn": [1.0]}}, "segn (did you mean segm?)"),
        ({"values": {"bbox": [1.0] * 4, "segm": [1.0]}}, "bbox: expected numbers"),
        ({"values": {"bbox": 41.0}}, "bbox: expected numbers"),
        ({"values": {"bbox": [41], "segm": ["56.9}"]}}, "bbox: expected numbers"),
        ({"values": {"bbox": None, "segm": None}}, "values: there is none"),
        ({"protocol": {"bbox": "B"}}, "protocol: segm is missing"),
    ],
)
def test_bad_row_of_a_users_own_file_is_named(tmp_path, change, message):
    error = refusal(tmp_path, lambda task: task["published"]["CLoVE, table 2"][1].update(change))
    assert "own.yaml: coco_fpn: CLoVE, table 2: row 2: " in error
    assert message in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": []}, "unknown key metric (did you mean metrics?)"),
        ({"metrics": "bbox/AP"}, "metrics: expected a list of names, found 'bbox/AP'"),
        ({"main_metric": "bbox/Ap"}, "unknown main metric bbox/Ap (did you mean bbox/AP?)"),
        ({"protocol": "Z"}, "unknown protocol Z"),
        ({"config_sha256": None}, "config_sha256 is missing"),
        ({"schedule": {"iterations": 90000}}, "schedule: images_per_batch is missing"),
        ({"published": [{"method": "random"}]}, "expected a list of rows below each source's name"),
        ({"published": {"A paper": None}}, "published: A paper: expected a list of rows"),
    ],
)
def test_bad_task_of_a_users_own_file_is_named(tmp_path, change, message):
    error = refusal(tmp_path, lambda task: task.update(change))
    assert "own.yaml: coco_fpn: " in error
    assert message in error
