import math

import pytest

from pretrain.runtime.config import ConfigError
from transfer.config import resolve
from transfer.record import CONFIG, check_same_run, result, select_metrics
from transfer.tasks import TASKS, Task

TASK = Task(config="", metrics=("bbox/AP", "segm/AP"), main_metric="segm/AP")


def test_metrics_get_slashes_and_lose_categories():
    results = {"bbox": {"AP": 1.0, "AP50": 2.0, "AP-person": 3.0}, "segm": {"AP": 4.0}}
    metrics = select_metrics(results, TASK)
    assert metrics == {"bbox/AP": 1.0, "bbox/AP50": 2.0, "segm/AP": 4.0}
    assert result({}, TASK, metrics, 1.0)["main_metric"] == "segm/AP"
    assert result({}, Task(""), metrics, 1.0)["main_metric"] == "bbox/AP"
    assert list(select_metrics(results, TASK, ["segm/AP", "bbox/AP"])) == ["segm/AP", "bbox/AP"]


def test_what_cannot_be_computed_is_left_out():
    results = {"bbox": {"AP": 1.0, "APl": math.nan}, "segm": {"AP": 4.0}}
    assert select_metrics(results, TASK) == {"bbox/AP": 1.0, "segm/AP": 4.0}
    results["bbox"]["AP"] = math.nan  # the task's, but not the one that ranks
    assert select_metrics(results, TASK) == {"segm/AP": 4.0}


@pytest.mark.parametrize("segm", [{"AP": math.nan}, {}])
def test_a_task_without_one_of_its_metrics_stops(segm):
    with pytest.raises(ValueError, match="evaluation gave no segm/AP"):
        select_metrics({"bbox": {"AP": 1.0}, "segm": segm}, TASK)


def test_an_evaluation_alone_may_have_other_thresholds_but_no_other_model(tmp_path):
    cfg = resolve(TASKS["coco_fpn"].config)
    (tmp_path / CONFIG).write_text(cfg.dump())
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.5
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    check_same_run(tmp_path, cfg, {}, eval_only=True)
    with pytest.raises(ConfigError, match=r"another run .*SCORE_THRESH_TEST 0.05, now 0.5"):
        check_same_run(tmp_path, cfg, {})
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    with pytest.raises(ConfigError, match=r"another run \(MODEL.ROI_HEADS.NUM_CLASSES 80, now 3\)"):
        check_same_run(tmp_path, cfg, {}, eval_only=True)
