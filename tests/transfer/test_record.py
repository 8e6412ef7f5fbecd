import math

import pytest

from transfer.record import result, select_metrics
from transfer.tasks import Task

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
