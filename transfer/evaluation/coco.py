"""COCO's metrics of boxes, masks and keypoints, through faster-coco-eval."""

import contextlib
import io
import itertools
from collections.abc import Sequence
from typing import Any

import faster_coco_eval
from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator

# What a result must have beside image_id, category_id and score. Boxes are left out beside masks,
# where they would give the areas; beside keypoints they give them, as in Detectron2.
RESULT_FIELDS = {
    "bbox": ("bbox",),
    "segm": ("segmentation",),
    "keypoints": ("keypoints", "bbox"),
}


def evaluate_coco(
    dataset: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: str,
    max_dets: Sequence[int] | None = None,
    oks_sigmas: Sequence[float] | None = None,
    lvis_style: bool = False,
) -> faster_coco_eval.COCOeval_faster:
    """COCO's metrics through faster-coco-eval: pycocotools' numbers, several times faster.

    dataset: the parsed annotation file; results: COCO's result dicts, possibly none; iou_type:
    bbox, segm or keypoints; max_dets: of a class in an image, None for COCO's; oks_sigmas: one a
    keypoint, None for COCO's; lvis_style: federated labels. The answer's ``stats`` begin with
    COCO's 12 (for keypoints 10) numbers, its ``eval["precision"]`` are the curves.
    """
    kept = ("image_id", "category_id", "score", *RESULT_FIELDS[iou_type])
    truth = faster_coco_eval.COCO(dataset, use_deepcopy=True)  # loading adds keys
    detections = truth.loadRes([{key: result[key] for key in kept} for result in results])
    evaluation = faster_coco_eval.COCOeval_faster(
        truth, detections, iou_type, kpt_oks_sigmas=oks_sigmas, lvis_style=lvis_style
    )
    if max_dets is not None:
        evaluation.params.maxDets = list(max_dets)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.run()
    return evaluation


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator on faster-coco-eval, which needs no compiled part of Detectron2.

    A model without any detection scores 0 here, as in pycocotools, where Detectron2 says NaN.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        model = cfg.MODEL
        wanted = {"bbox": True, "segm": model.MASK_ON, "keypoints": model.KEYPOINT_ON}
        super().__init__(
            dataset_name,
            tasks=[iou_type for iou_type, on in wanted.items() if on],
            use_fast_impl=False,
            kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
        )

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        classes = self._metadata.thing_dataset_id_to_contiguous_id
        category_ids = {index: category_id for category_id, index in classes.items()}
        results = [r | {"category_id": category_ids[r["category_id"]]} for r in results]
        for iou_type in self._tasks:
            evaluation = evaluate_coco(
                self._coco_api.dataset, results, iou_type, oks_sigmas=self._kpt_oks_sigmas or None
            )
            self._results[iou_type] = self._derive_coco_results(
                evaluation, iou_type, self._metadata.get("thing_classes")
            )
