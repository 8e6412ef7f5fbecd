"""LVIS's metrics, through faster-coco-eval: the lvis package's numbers on any numpy."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.logger import create_small_table

from transfer.data import lvis
from transfer.evaluation.coco import (
    Evaluation,
    LabelledEvaluator,
    as_detection,
    as_object,
    best_first,
)

MAX_DETECTIONS = 300  # of an image, whatever their classes
AP50, AP75 = 0, 5  # of the IoU thresholds 0.5, 0.55, ..., 0.95
ALL, SMALL, MEDIUM, LARGE = range(4)  # areas


def evaluate_lvis(
    dataset: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: str
) -> dict[str, float]:
    """LVIS's metrics: AP, AP50, AP75, by area (s, m, l) and by frequency (r, c, f), in percent.

    dataset: the parsed annotation file; results: COCO's result dicts, possibly none, of which the
    300 best of an image count; iou_type: bbox or segm. NaN where the data set has no such object.
    Only the images where a category is known to be or not to be are looked at, category by
    category: all pairs of LVIS's 19,809 images and 1,203 categories would fill the memory.
    """
    objects = _objects(dataset, iou_type)
    judged = {key: {thing["image_id"] for thing in own} for key, own in objects.items()}
    for image in dataset["images"]:
        for category_id in judged.keys() & image["neg_category_ids"]:
            judged[category_id].add(image["id"])
    detections = _detections(dataset, results, iou_type, judged)
    frequencies = {category["id"]: category["frequency"] for category in dataset["categories"]}
    precision = []
    for category_id in objects:
        evaluation = Evaluation(
            objects[category_id],
            detections[category_id],
            iou_type,
            image_ids=judged[category_id],
            category_ids=[category_id],
            max_detections=[MAX_DETECTIONS],
        )
        evaluation.evaluate()
        evaluation.accumulate()
        precision.append(evaluation.eval["precision"][:, :, 0, :, 0])
    return _summarize(
        np.array(precision).reshape(-1, 10, 101, 4), np.array([frequencies[k] for k in objects])
    )


def _objects(dataset: dict[str, Any], iou_type: str) -> dict[int, list[dict[str, Any]]]:
    """The labels by category. LVIS has no crowds, and its package leaves out an area of 0."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    objects = defaultdict(list)
    for number, annotation in enumerate(dataset["annotations"], start=1):
        if annotation["area"] > 0:
            thing = as_object(number, annotation, iou_type, sizes[annotation["image_id"]])
            thing |= {"iscrowd": 0, "ignore": annotation.get("ignore", 0)}
            objects[annotation["category_id"]].append(thing)
    return objects


def _detections(
    dataset: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: str,
    judged: dict[int, set[int]],
) -> dict[int, list[dict[str, Any]]]:
    """The results by category, in the images where it is judged; of the others nothing is known."""
    partial = {image["id"]: image["not_exhaustive_category_ids"] for image in dataset["images"]}
    detections = {category_id: [] for category_id in judged}
    best = best_first(results, MAX_DETECTIONS, itemgetter("image_id"))
    for number, result in enumerate(best, start=1):
        category_id, image_id = result["category_id"], result["image_id"]
        if image_id in judged.get(category_id, ()):
            detection = as_detection(number, result, iou_type)
            # Not wrong where it is found beside the labels, which are not all.
            detection["lvis_mark"] = category_id in partial[image_id]
            if detection["area"] > 0:  # as of the labels
                detections[category_id].append(detection)
    return detections


def _summarize(precision: np.ndarray, frequencies: np.ndarray) -> dict[str, float]:
    """precision: (categories, 10, 101, 4); frequencies: r, c or f of each category."""
    chosen = {
        "AP": precision[..., ALL],
        "AP50": precision[:, AP50, :, ALL],
        "AP75": precision[:, AP75, :, ALL],
        "APs": precision[..., SMALL],
        "APm": precision[..., MEDIUM],
        "APl": precision[..., LARGE],
    }
    chosen |= {f"AP{group}": precision[frequencies == group][..., ALL] for group in "rcf"}
    known = {name: values[values > -1] for name, values in chosen.items()}
    return {name: 100 * float(v.mean()) if v.size else float("nan") for name, v in known.items()}


class FastLVISEvaluator(LabelledEvaluator):
    """Detectron2's LVIS evaluator on ``evaluate_lvis``; a model without detections scores 0."""

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        super().__init__(dataset_name, lvis.read(dataset_name).content, tasks)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        # LVIS's ids are Detectron2's plus 1.
        results = [r | {"category_id": r["category_id"] + 1} for r in results]
        for iou_type in self._tasks:
            numbers = evaluate_lvis(self.labels, results, iou_type)
            self._logger.info("Results for %s:\n%s", iou_type, create_small_table(numbers))
            self._results[iou_type] = numbers
