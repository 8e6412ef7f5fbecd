"""Labels of scenes as predictions, through the evaluator of every layout."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import InferenceSampler
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from pycocotools import mask as masks

from benchmarks.scenes import coco
from benchmarks.scenes.densepose import PERSON, dense_maps
from benchmarks.scenes.generate import Request, generate
from benchmarks.scenes.scene import make_scene
from tests.transfer.tiny import data_sets_at
from transfer.config import resolve
from transfer.densepose.chart import ChartOutputs
from transfer.evaluation import build_evaluator
from transfer.tasks import TASKS

# One task for each test set: what the others evaluate is the same.
CHOSEN = list({resolve(task.config).DATASETS.TEST: name for name, task in TASKS.items()}.values())
# COCO's points are whole pixels; DensePose's maps are resized to the box
ROUNDS = {"keypoints_fpn", "densepose_fpn_legacy"}
REQUEST = Request(unlabelled=0, train=20, val=44, longest_side=160)
MAP_SIDE = 112


@pytest.fixture(scope="module", autouse=True)
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    generate(folder, REQUEST, workers=2)
    with data_sets_at(folder):
        yield folder


def as_model_output(record, change=None):
    """What a model would say that found the record's labels: all of them, scores from 0.9 to 0.3.

    change: "shifted" by 3 px to the right.
    """
    size = record["height"], record["width"]
    labels = [label for label in record["annotations"] if not label.get("iscrowd")]
    shift = 3 if change == "shifted" else 0
    instances = Instances(size)
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in labels]
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(boxes + torch.tensor([shift, 0, shift, 0]))
    instances.scores = torch.linspace(0.9, 0.3, len(labels))
    instances.pred_classes = torch.tensor([a["category_id"] for a in labels], dtype=torch.int64)
    if labels and "segmentation" in labels[0]:
        decoded = [decode(label["segmentation"], size) for label in labels]
        instances.pred_masks = torch.tensor(np.stack([np.roll(m, shift, axis=1) for m in decoded]))
    elif not labels:
        instances.pred_masks = torch.zeros((0, *size), dtype=torch.bool)
    if labels and "keypoints" in labels[0]:
        points = torch.tensor(np.array([a["keypoints"] for a in labels])).reshape(-1, 17, 3)
        instances.pred_keypoints = points.float() + torch.tensor([shift, 0, 0])
    elif not labels:
        instances.pred_keypoints = torch.zeros((0, 17, 3))
    if "COCO_val2014" in record["file_name"]:  # DensePose's name of it
        instances.pred_densepose = as_charts(record)
    return {"instances": instances}


def as_charts(record):
    """The maps of a model that sees every pixel of the people as the scene was drawn."""
    index = record["image_id"] - coco.FIRST_IDS["val"]
    scene = make_scene(REQUEST.seed, "val", index, REQUEST.longest_side)
    people = [i for i in scene.instances if coco.CATEGORY_IDS[i.name] == PERSON["id"]]
    maps = [draw_charts(person) for person in people if not person.is_crowd]
    sides = {"coarse_segm": 2, "fine_segm": 25, "u": 25, "v": 25}
    empty = [torch.zeros(0, channels, MAP_SIDE, MAP_SIDE) for channels in sides.values()]
    stacked = [torch.stack(parts) for parts in zip(*maps, strict=True)] or empty
    return ChartOutputs(*stacked)


def draw_charts(person):
    """Scores of person and of chart, U and V (C, MAP_SIDE, MAP_SIDE) over a person's box."""
    x, y, width, height = person.box
    rows, columns = (
        (start + (np.arange(MAP_SIDE) + 0.5) * length / MAP_SIDE).astype(int)
        for start, length in ((y, height), (x, width))
    )
    charts, u, v = (torch.from_numpy(grid[np.ix_(rows, columns)]) for grid in dense_maps(person))
    fine = torch.nn.functional.one_hot(charts.long(), 25).permute(2, 0, 1).float()
    coarse = torch.stack([fine[0], 1 - fine[0]])
    # A chart's own map goes on beyond its border, as a network's does.
    beyond = [(fine * grid).sum((1, 2)) / fine.sum((1, 2)).clamp(min=1) for grid in (u, v)]
    mixed = [
        torch.where(fine > 0, grid.float(), mean.float()[:, None, None])
        for grid, mean in zip((u, v), beyond, strict=True)
    ]
    return coarse, fine, *mixed


def decode(segmentation, size):
    lengths = masks.merge(masks.frPyObjects(segmentation, *size))
    return masks.decode(lengths).astype(bool)


def evaluate(task, change=None, silent=False):
    """The task's metrics for the labels as predictions; ``silent``: for no predictions."""
    cfg = resolve(TASKS[task].config)
    name = cfg.DATASETS.TEST[0]
    evaluator = build_evaluator(cfg, name)
    evaluator.reset()
    records = DatasetCatalog.get(name)
    for index in InferenceSampler._get_local_indices(
        len(records), comm.get_world_size(), comm.get_rank()
    ):
        record = records[index]
        output = as_model_output(record, change)
        if silent:
            output["instances"] = output["instances"][:0]
        evaluator.process([record], [output])
    results = evaluator.evaluate() or {}  # nothing on ranks other than 0
    return {f"{g}/{name}": v for g, values in results.items() for name, v in values.items()}


def shown(task, metrics):
    """Those of the task's own, without what these small images have nothing of."""
    values = {name: metrics[name] for name in TASKS[task].metrics}
    return {name: value for name, value in values.items() if not np.isnan(value)}


@pytest.mark.parametrize("task", CHOSEN)
def test_the_labels_score_100_and_twice_the_same(task):
    found = shown(task, evaluate(task))
    assert TASKS[task].main_metric in found
    for name, value in found.items():
        rounds = task in ROUNDS and not name.endswith(("AP50", "AP75"))
        assert value >= (95 if rounds else 100 - 1e-6), name
    assert shown(task, evaluate(task)) == found


@pytest.mark.parametrize("task", CHOSEN)
def test_shifted_labels_score_less(task):
    main = TASKS[task].main_metric
    assert 1 < evaluate(task, "shifted")[main] < evaluate(task)[main] - 5


@pytest.mark.parametrize("task", CHOSEN)
def test_a_silent_model_scores_zero(task):
    zero = -1 if task.startswith("densepose") else 0  # upstream's word for it
    assert evaluate(task, silent=True)[TASKS[task].main_metric] == zero


def evaluate_on_a_rank(rank, folder, output):
    """What one of two processes does; the first writes the metrics of all tasks."""
    store = f"file://{output.parent}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
    comm.create_local_process_group(2)
    with data_sets_at(folder):
        found = {task: evaluate(task, "shifted") for task in CHOSEN}
    if rank == 0:
        output.write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_evaluate_as_one(scenes, tmp_path):
    torch.multiprocessing.spawn(evaluate_on_a_rank, (scenes, tmp_path / "found.json"), nprocs=2)
    found = json.loads((tmp_path / "found.json").read_text())
    for task in CHOSEN:
        assert found[task] == pytest.approx(evaluate(task, "shifted"), abs=1e-9, nan_ok=True), task
