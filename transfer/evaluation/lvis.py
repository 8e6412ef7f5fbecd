"""LVIS's metrics, through faster-coco-eval: the lvis package's numbers on any numpy."""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import LVISEvaluator

from transfer.evaluation.coco import evaluate_coco

MAX_DETECTIONS = 300  # of an image, whatever their classes
# Our names (Detectron2's) of faster-coco-eval's numbers.
NAMES = {
    "AP": "AP_all",
    "AP50": "AP_50",
    "AP75": "AP_75",
    "APs": "AP_small",
    "APm": "AP_medium",
    "APl": "AP_large",
    "APr": "APr",
    "APc": "APc",
    "APf": "APf",
}


def evaluate_lvis(
    dataset: dict[str, Any], results: Sequence[dict[str, Any]], iou_type: str
) -> dict[str, float]:
    """LVIS's metrics: AP, AP50, AP75, by area (s, m, l) and by frequency (r, c, f), in percent.

    dataset: the parsed annotation file; results: COCO's result dicts, of which the 300 best of an
    image count; iou_type: bbox or segm. NaN where the data set has nothing to find.
    """
    results = _judged(dataset, _best_of_each_image(results))
    evaluation = evaluate_coco(dataset, results, iou_type, [MAX_DETECTIONS], lvis_style=True)
    numbers = evaluation.stats_as_dict
    return {
        ours: 100 * numbers[theirs] if numbers[theirs] >= 0 else float("nan")
        for ours, theirs in NAMES.items()
    }


def _best_of_each_image(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return [
        result
        for own in by_image.values()
        for result in sorted(own, key=lambda result: -result["score"])[:MAX_DETECTIONS]
    ]


def _judged(dataset: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of classes that their image was searched for; of the others nothing is known."""
    searched = {image["id"]: set(image["neg_category_ids"]) for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        searched[annotation["image_id"]].add(annotation["category_id"])
    return [result for result in results if result["category_id"] in searched[result["image_id"]]]


class FastLVISEvaluator(LVISEvaluator):
    """Detectron2's LVIS evaluator on ``evaluate_lvis``; a model without detections scores 0."""

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(dataset_name, tasks=("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",))

    def _eval_predictions(self, predictions: list[dict[str, Any]]) -> None:
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        # LVIS's ids are Detectron2's plus 1.
        results = [r | {"category_id": r["category_id"] + 1} for r in results]
        for iou_type in self._tasks:
            self._results[iou_type] = evaluate_lvis(self._lvis_api.dataset, results, iou_type)
