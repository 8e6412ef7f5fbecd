"""LVIS's metrics, through faster-coco-eval: the lvis package's numbers on any numpy."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import LVISEvaluator
from detectron2.utils.logger import create_small_table
from faster_coco_eval import COCO

from transfer.evaluation.coco import Evaluation, as_detection, best_first, load

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
    categories = sorted(dataset["categories"], key=itemgetter("id"))
    objects = _objects(dataset)
    judged = {category["id"]: set() for category in categories}  # their images
    for image in dataset["images"]:
        for category_id in image["neg_category_ids"]:
            judged[category_id].add(image["id"])
    for category_id, own in objects.items():
        judged[category_id].update(thing["image_id"] for thing in own)

    detections = defaultdict(list)
    best = best_first(results, MAX_DETECTIONS, itemgetter("image_id"))
    for number, result in enumerate(best, start=1):
        if result["image_id"] in judged[result["category_id"]]:
            detection = as_detection(number, result, iou_type)
            if detection["area"] > 0:  # the lvis package finds no others
                detections[result["category_id"]].append(detection)

    images = {image["id"]: image for image in dataset["images"]}
    precision = [
        _precision(
            {"images": [images[k] for k in judged[category["id"]]], "categories": [category]},
            objects[category["id"]],
            detections.pop(category["id"], []),
            iou_type,
        )
        for category in categories
        if category["id"] in objects
    ]
    frequencies = [c["frequency"] for c in categories if c["id"] in objects]
    return _summarize(np.array(precision).reshape(-1, 10, 101, 4), np.array(frequencies))


def _objects(dataset: dict[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """The annotations by category, with what LVIS's rules take from them.

    There are no crowds, an area of 0 is never found, and what is to be ignored has no area range.
    """
    objects = defaultdict(list)
    for annotation in dataset["annotations"]:
        if annotation["area"] > 0:
            changes = {"iscrowd": 0} | ({"area": -1} if annotation.get("ignore") else {})
            objects[annotation["category_id"]].append(annotation | changes)
    return objects


def _precision(
    dataset: dict[str, Any],
    objects: list[dict[str, Any]],
    detections: list[dict[str, Any]],
    iou_type: str,
) -> np.ndarray:
    """Of one category: (10 IoU thresholds, 101 recalls, 4 areas); -1 where there is no object."""
    evaluation = Evaluation(
        load(dataset, objects, iou_type),
        COCO(dataset | {"annotations": detections}),
        iou_type,
        lvis_style=True,
    )
    evaluation.params.maxDets = [MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][:, :, 0, :, 0]


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


class FastLVISEvaluator(LVISEvaluator):
    """Detectron2's LVIS evaluator on ``evaluate_lvis``; a model without detections scores 0."""

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(dataset_name, tasks=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",))

    def _eval_predictions(self, predictions: list[dict[str, Any]]) -> None:
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        # LVIS's ids are Detectron2's plus 1.
        results = [r | {"category_id": r["category_id"] + 1} for r in results]
        for iou_type in self._tasks:
            numbers = evaluate_lvis(self._lvis_api.dataset, results, iou_type)
            self._logger.info("Results for %s:\n%s", iou_type, create_small_table(numbers))
            self._results[iou_type] = numbers
