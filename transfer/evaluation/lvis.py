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

from transfer.evaluation.coco import (
    Evaluation,
    as_detection,
    as_object,
    best_first,
    no_collection,
)

MAX_DETECTIONS = 300  # of an image, whatever their classes
AP50, AP75 = 0, 5  # of the IoU thresholds 0.5, 0.55, ..., 0.95
ALL, SMALL, MEDIUM, LARGE = range(4)  # areas


@no_collection()
def evaluate_lvis(
    dataset: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: str
) -> dict[str, float]:
    """LVIS's metrics: AP, AP50, AP75, by area (s, m, l) and by frequency (r, c, f), in percent.

    dataset: the parsed annotation file; results: COCO's result dicts, possibly none, of which the
    300 best of an image count; iou_type: bbox or segm. NaN where the data set has no such object.
    Only the images where a category is known to be or not to be are looked at, category by
    category: all pairs of LVIS's 19,809 images and 1,203 categories would fill the memory.
    """
    images = {image["id"]: image for image in dataset["images"]}
    judged = defaultdict(set)  # of each category, the images where it is known to be or not to be
    for image in dataset["images"]:
        for category_id in image["neg_category_ids"]:
            judged[category_id].add(image["id"])
    objects = defaultdict(list)
    for annotation in dataset["annotations"]:
        if annotation["area"] > 0:  # the lvis package finds no others
            image = images[annotation["image_id"]]
            thing = as_object(annotation, iou_type, (image["height"], image["width"]))
            thing |= {"iscrowd": 0, "ignore": annotation.get("ignore", 0)}  # there are no crowds
            objects[annotation["category_id"]].append(thing)
            judged[annotation["category_id"]].add(annotation["image_id"])
    detections = defaultdict(list)
    best = best_first(results, MAX_DETECTIONS, itemgetter("image_id"))
    for number, result in enumerate(best, start=1):
        category_id, image_id = result["category_id"], result["image_id"]
        if image_id in judged[category_id]:
            detection = as_detection(number, result, iou_type)
            # What is found beside the labels of such a category is not wrong.
            partial = category_id in images[image_id]["not_exhaustive_category_ids"]
            if detection["area"] > 0:
                detections[category_id].append(detection | {"lvis_mark": partial})

    precision, frequencies = [], []
    for category in dataset["categories"]:
        category_id = category["id"]
        if category_id in objects:
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
            frequencies.append(category["frequency"])
    return _summarize(np.array(precision).reshape(-1, 10, 101, 4), np.array(frequencies))


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
