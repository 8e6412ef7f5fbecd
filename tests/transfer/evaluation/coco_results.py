"""COCO's result dicts through Detectron2's evaluators: a registered truth, and model outputs."""

import json
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from pycocotools import mask as masks

NAME = "evaluation_test"


def draw_box(random, image_size, low, high):
    """x, y, width, height with sides between ``low`` and ``high``, within (height, width)."""
    height, width = image_size
    w, h = np.exp(random.uniform(np.log(low), np.log(high), 2))
    w, h = min(w, width - 2), min(h, height - 2)
    return [random.uniform(0, width - w - 1), random.uniform(0, height - h - 1), w, h]


def draw_rle(random, image_size, box):
    """The run lengths of a box with ragged edges."""
    x, y, w, h = (int(value) for value in box)
    mask = np.zeros(image_size, dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    mask *= random.random(mask.shape) > 0.1
    rle = masks.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


@contextmanager
def registered(truth, folder):
    """The name under which Detectron2 knows ``truth``, the content of a COCO-format JSON file."""
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(
        json_file=str(path),
        evaluator_type="coco",
        thing_dataset_id_to_contiguous_id={c["id"]: k for k, c in enumerate(truth["categories"])},
        thing_classes=[category["name"] for category in truth["categories"]],
    )
    try:
        yield NAME
    finally:
        DatasetCatalog.pop(NAME)
        MetadataCatalog.pop(NAME)


def as_model_output(truth, results, image):
    """What a model would have said of ``image`` (an entry of the truth's) to give ``results``."""
    mine = [result for result in results if result["image_id"] == image["id"]]
    ids = [category["id"] for category in truth["categories"]]
    instances = Instances((image["height"], image["width"]))
    boxes = torch.tensor([r["bbox"] for r in mine]).reshape(-1, 4)
    instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1))
    instances.scores = torch.tensor([r["score"] for r in mine])
    classes = [ids.index(r["category_id"]) for r in mine]
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if any("segmentation" in result for result in results):
        empty = [np.zeros((image["height"], image["width"]))]
        decoded = [masks.decode(r["segmentation"]) for r in mine] or empty
        instances.pred_masks = torch.from_numpy(np.stack(decoded))[: len(mine)]
    if any("keypoints" in result for result in results):
        points = torch.tensor([r["keypoints"] for r in mine]).reshape(-1, 17, 3)
        instances.pred_keypoints = points + torch.tensor([0.5, 0.5, 0])  # COCO's are whole pixels
    return {"instances": instances}


def evaluate(evaluator, truth, results):
    """The evaluator's answer to ``results``, given image by image."""
    evaluator.reset()
    for image in truth["images"]:
        output = as_model_output(truth, results, image)
        evaluator.process([{"image_id": image["id"]}], [output])
    return evaluator.evaluate()
