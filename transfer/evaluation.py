"""Evaluators, chosen by the data set's ``evaluator_type`` in Detectron2's metadata."""

import contextlib
import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import faster_coco_eval
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator

RESULT_FIELDS = {"bbox": "bbox", "segm": "segmentation"}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of a registered data set; KeyError where its ``evaluator_type`` has none."""
    return EVALUATORS[MetadataCatalog.get(dataset_name).evaluator_type](cfg, dataset_name)


def evaluate_coco(
    dataset: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: str,
    max_dets: Sequence[int] = (1, 10, 100),
) -> faster_coco_eval.COCOeval_faster:
    """COCO's metrics through faster-coco-eval: pycocotools' numbers, several times faster.

    dataset: the parsed annotation file; results: COCO's result dicts, possibly none; iou_type: bbox
    or segm. The 12 numbers are the answer's ``stats[:12]``, its ``eval["precision"]`` the curves.
    """
    field = RESULT_FIELDS[iou_type]
    # Without the boxes: beside masks, they would give the areas.
    kept = ("image_id", "category_id", "score", field)
    truth = faster_coco_eval.COCO(dataset, use_deepcopy=True)  # loading adds keys
    detections = truth.loadRes([{key: result[key] for key in kept} for result in results])
    evaluation = faster_coco_eval.COCOeval_faster(truth, detections, iou_type)
    evaluation.params.maxDets = list(max_dets)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.run()
    return evaluation


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator on faster-coco-eval, which needs no compiled part of Detectron2.

    A model without any detection scores 0 here, as in pycocotools, where Detectron2 says NaN.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        tasks = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        super().__init__(dataset_name, tasks=tasks, use_fast_impl=False)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        classes = self._metadata.thing_dataset_id_to_contiguous_id
        category_ids = {index: category_id for category_id, index in classes.items()}
        results = [r | {"category_id": category_ids[r["category_id"]]} for r in results]
        for iou_type in self._tasks:
            evaluation = evaluate_coco(
                self._coco_api.dataset, results, iou_type, self._max_dets_per_image
            )
            self._results[iou_type] = self._derive_coco_results(
                evaluation, iou_type, self._metadata.get("thing_classes")
            )


EVALUATORS: dict[str, Callable[[CfgNode, str], DatasetEvaluator]] = {"coco": FastCOCOEvaluator}
