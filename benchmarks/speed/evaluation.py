"""Our evaluation against pycocotools and the lvis package, on random labels and detections."""

import contextlib
import io
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
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
OBJECTS, POINTS = 7, 17
KINDS = {"boxes": "bbox", "masks": "segm", "keypoints": "keypoints"}
LVIS_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")

Instances = tuple[dict[str, Any], list[dict[str, Any]]]


def rows(images: int) -> Iterator[Row]:
    """COCO boxes, masks and keypoints, LVIS boxes and masks."""
    for name, kind in KINDS.items():
        yield Row(
            name=f"COCO {name}",
            baseline="pycocotools",
            inputs=copies(draw(images, 1 if kind == "keypoints" else 80, kind)),
            ours=lambda *both, kind=kind: evaluate_coco(*both, kind).stats[:12],
            theirs=partial(by_pycocotools, kind=kind),
        )
    for name, kind in list(KINDS.items())[:2]:
        yield Row(
            name=f"LVIS {name}",
            baseline="lvis",
            inputs=copies(draw(images, 1203, kind)),
            ours=lambda *both, kind=kind: list(evaluate_lvis(*both, kind).values()),
            theirs=partial(by_lvis, kind=kind),
        )


def by_pycocotools(dataset: dict, results: list[dict], kind: str) -> Sequence[float]:
    """The 12 numbers of COCO, or 10 of keypoints."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def by_lvis(dataset: dict, results: list[dict], kind: str) -> Sequence[float]:
    """The numbers of LVIS in percent, on a numpy that no longer has ``np.float``."""
    truth = LVIS.__new__(LVIS)  # it reads files only
    truth.logger, truth.dataset = logging.getLogger("lvis"), dataset
    truth._create_index()
    with mock.patch.object(np, "float", float, create=True):
        evaluation = LVISEval(truth, LVISResults(truth, results), kind)
        evaluation.run()
    return [100 * evaluation.get_results()[name] for name in LVIS_NAMES]


def copies(instances: Instances) -> Callable[[], Instances]:
    """Makes copies to which the packages may add keys."""
    return partial(pickle.loads, pickle.dumps(instances))


def draw(images: int, categories: int, kind: str) -> Instances:
    """Objects, with two moved copies of each among the detections, and boxes without object.

    The latter are of categories that the image is known not to have (LVIS's negative ones).
    """
    random = np.random.default_rng(0)
    pose = random.random((POINTS, 2))
    dataset = {
        "info": {},
        "images": [{"id": k, "width": WIDTH, "height": HEIGHT} for k in range(1, images + 1)],
        "annotations": [],
        "categories": [
            {"id": k, "name": f"class {k}", "frequency": "rcf"[k % 3]}
            for k in range(1, categories + 1)
        ],
    }
    results = []
    for image in dataset["images"]:
        objects = draw_boxes(random, OBJECTS)
        moved = np.concatenate([objects, objects]) + random.normal(0, 5, (2 * OBJECTS, 4))
        boxes = clip(np.concatenate([objects, moved, draw_boxes(random, OBJECTS)]))
        present, absent = random.integers(1, categories + 1, (2, OBJECTS))
        classes = np.concatenate([present, present, present, absent]).tolist()
        image["neg_category_ids"] = absent.tolist()
        image["not_exhaustive_category_ids"] = classes[:1]
        entries = [
            {"image_id": image["id"], "category_id": number} | shape(random, box, pose, kind)
            for number, box in zip(classes, boxes, strict=True)
        ]
        for entry, box in zip(entries[:OBJECTS], boxes[:OBJECTS], strict=True):
            own = {"id": len(dataset["annotations"]) + 1, "iscrowd": 0, "bbox": box.tolist()}
            own |= {"area": 0.6 * float(np.prod(box[2:]))} | entry
            own["num_keypoints"] = int(np.count_nonzero(entry.get("keypoints", [])[2::3]))
            dataset["annotations"].append(own)
        for index in random.integers(OBJECTS, len(entries), DETECTIONS):
            results.append(entries[index] | {"score": random.random()})
    return dataset, results


def shape(random: np.random.Generator, box: np.ndarray, pose: np.ndarray, kind: str) -> dict:
    """The box; the RLE of a ragged shape in it; or the pose in it, some of its points not there."""
    if kind == "bbox":
        return {"bbox": box.tolist()}
    if kind == "keypoints":
        marks = random.integers(0, 3, (POINTS, 1))
        points = np.concatenate([box[:2] + box[2:] * pose, marks], axis=1)
        return {"bbox": box.tolist(), "keypoints": points.ravel().tolist()}
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    radii = random.uniform(0.7, 1.0, 16) / 2
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + 0.5
    polygon = (box[:2] + box[2:] * corners).ravel().tolist()
    rle = masks.frPyObjects([polygon], HEIGHT, WIDTH)[0]
    return {"segmentation": {"size": rle["size"], "counts": rle["counts"].decode()}}


def draw_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4): x, y, width, height, of all of COCO's area ranges."""
    sizes = np.exp(random.uniform(np.log(12), np.log(300), (count, 2)))
    return np.concatenate([random.uniform(0, (WIDTH, HEIGHT) - sizes), sizes], axis=1)


def clip(boxes: np.ndarray) -> np.ndarray:
    """Within the image, at least 4 pixels long."""
    corners = np.clip(boxes[:, :2], 0, (WIDTH - 4, HEIGHT - 4))
    return np.concatenate([corners, np.clip(boxes[:, 2:], 4, (WIDTH, HEIGHT) - corners)], axis=1)
