"""Our evaluation against pycocotools and the lvis package, on random labels and detections."""

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.speed.compare import Row
from transfer.evaluation import evaluate_coco, evaluate_lvis

WIDTH, HEIGHT = 640, 480
DETECTIONS = 100  # of an image
OBJECTS, PEOPLE = 7, 4
POINTS = 17
LVIS_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")

Instances = tuple[dict[str, Any], list[dict[str, Any]]]


def rows(images: int) -> Iterator[Row]:
    """COCO boxes, masks and keypoints, LVIS boxes and masks."""
    for name, iou_type in (("boxes", "bbox"), ("masks", "segm"), ("keypoints", "keypoints")):
        drawn = draw_people(images) if name == "keypoints" else draw_instances(images, 80, iou_type)
        yield Row(
            name=f"COCO {name}",
            baseline="pycocotools",
            inputs=partial(copies, *drawn),
            ours=lambda *arguments, t=iou_type: evaluate_coco(*arguments, t).stats[:12],
            theirs=partial(by_pycocotools, iou_type=iou_type),
        )
    for name, iou_type in (("boxes", "bbox"), ("masks", "segm")):
        yield Row(
            name=f"LVIS {name}",
            baseline="lvis",
            inputs=partial(copies, *draw_instances(images, 1203, iou_type)),
            ours=lambda *arguments, t=iou_type: list(evaluate_lvis(*arguments, t).values()),
            theirs=partial(by_lvis, iou_type=iou_type),
        )


def by_pycocotools(
    dataset: dict[str, Any], results: list[dict[str, Any]], iou_type: str
) -> Sequence[float]:
    """The 12 numbers of COCO, or 10 of keypoints."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def by_lvis(
    dataset: dict[str, Any], results: list[dict[str, Any]], iou_type: str
) -> Sequence[float]:
    """The numbers of LVIS in percent, on a numpy that no longer has ``np.float``."""
    truth = LVIS.__new__(LVIS)  # it reads files only
    truth.logger, truth.dataset = logging.getLogger("lvis"), dataset
    truth._create_index()
    with mock.patch.object(np, "float", float, create=True):
        evaluation = LVISEval(truth, LVISResults(truth, results), iou_type)
        evaluation.run()
    return [100 * evaluation.get_results()[name] for name in LVIS_NAMES]


def copies(dataset: dict[str, Any], results: list[dict[str, Any]]) -> Instances:
    """Copies to which the packages may add keys."""
    annotations = [dict(annotation) for annotation in dataset["annotations"]]
    return dataset | {"annotations": annotations}, [dict(result) for result in results]


def draw_instances(images: int, categories: int, iou_type: str) -> Instances:
    """Objects, with two moved copies of each among the detections, and boxes without object.

    The latter are of categories that the image is known not to have (LVIS's negative ones).
    """
    random = np.random.default_rng(0)
    dataset, results = empty(images, categories), []
    for image in dataset["images"]:
        objects = draw_boxes(random, OBJECTS)
        moved = np.concatenate([objects, objects]) + random.normal(0, 5, (2 * OBJECTS, 4))
        boxes = clip(np.concatenate([objects, moved, draw_boxes(random, OBJECTS)]))
        present, absent = random.integers(1, categories + 1, (2, OBJECTS))
        classes = np.concatenate([present, present, present, absent]).tolist()
        image["neg_category_ids"] = absent.tolist()
        image["not_exhaustive_category_ids"] = classes[:1]
        entries = [{"image_id": image["id"], "category_id": number} for number in classes]
        for entry, box in zip(entries, boxes, strict=True):
            shape = box.tolist() if iou_type == "bbox" else outline(random, box)
            entry["bbox" if iou_type == "bbox" else "segmentation"] = shape
        for entry, box in zip(entries[:OBJECTS], boxes[:OBJECTS], strict=True):
            own = {"bbox": box.tolist(), "area": float(np.prod(box[2:])), "iscrowd": 0}
            dataset["annotations"].append(own | entry)
        for index in random.integers(OBJECTS, len(entries), DETECTIONS):
            results.append(entries[index] | {"score": random.random()})
    return numbered(dataset), results


def draw_people(images: int) -> Instances:
    """People, some with points that are not labelled, and detections near one of them each."""
    random = np.random.default_rng(0)
    dataset, results = empty(images, categories=1), []
    for image in dataset["images"]:
        boxes = clip(draw_boxes(random, PEOPLE))
        points = boxes[:, None, :2] + boxes[:, None, 2:] * random.random((PEOPLE, POINTS, 2))
        marks = random.integers(0, 3, (PEOPLE, POINTS, 1))
        labels = np.concatenate([points, marks], axis=2).reshape(PEOPLE, -1).tolist()
        areas = 0.6 * boxes[:, 2:].prod(axis=1)
        people = [
            {"image_id": image["id"], "category_id": 1, "bbox": box} for box in boxes.tolist()
        ]
        for index, person in enumerate(people):
            own = {"area": float(areas[index]), "iscrowd": 0, "keypoints": labels[index]}
            own["num_keypoints"] = int((marks[index] > 0).sum())
            dataset["annotations"].append(person | own)
        for index in random.integers(0, PEOPLE, DETECTIONS):
            spread = 0.1 * np.sqrt(areas[index])
            near = points[index] + random.normal(0, spread, (POINTS, 2))
            found = np.column_stack([near, np.ones(POINTS)]).ravel().tolist()
            results.append(people[index] | {"keypoints": found, "score": random.random()})
    return numbered(dataset), results


def draw_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4): x, y, width, height, of all of COCO's area ranges."""
    sizes = np.exp(random.uniform(np.log(12), np.log(300), (count, 2)))
    return np.concatenate([random.uniform(0, (WIDTH, HEIGHT) - sizes), sizes], axis=1)


def clip(boxes: np.ndarray) -> np.ndarray:
    """Within the image, at least 4 pixels long."""
    corners = np.clip(boxes[:, :2], 0, (WIDTH - 4, HEIGHT - 4))
    return np.concatenate([corners, np.clip(boxes[:, 2:], 4, (WIDTH, HEIGHT) - corners)], axis=1)


def outline(random: np.random.Generator, box: np.ndarray) -> dict[str, Any]:
    """The RLE of a ragged shape in a box."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = random.uniform(0.7, 1.0, 16) / 2
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + 0.5
    polygon = (box[:2] + box[2:] * corners).ravel().tolist()
    rle = masks.frPyObjects([polygon], HEIGHT, WIDTH)[0]
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def empty(images: int, categories: int) -> dict[str, Any]:
    """A data set without annotations."""
    return {
        "info": {},
        "images": [{"id": k, "width": WIDTH, "height": HEIGHT} for k in range(1, images + 1)],
        "annotations": [],
        "categories": [
            {"id": k, "name": f"class {k}", "frequency": "rcf"[k % 3]}
            for k in range(1, categories + 1)
        ],
    }


def numbered(dataset: dict[str, Any]) -> dict[str, Any]:
    """With ids of its annotations."""
    for number, annotation in enumerate(dataset["annotations"], start=1):
        annotation["id"] = number
    return dataset
