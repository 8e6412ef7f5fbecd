"""COCO's metrics of boxes, masks and keypoints, through faster-coco-eval."""

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools import mask as masks

from pretrain.runtime.config import ConfigError

logger = logging.getLogger(__name__)

FIELDS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}
# Of one class in one image; the last one counts for AP.
MAX_DETECTIONS = {"bbox": (1, 10, 100), "segm": (1, 10, 100), "keypoints": (20,)}
COCO_KEYPOINTS = 17


class Evaluation(COCOeval_faster):
    """faster-coco-eval's matching and curves, with overlaps computed where they are needed.

    It would decode every mask, also those of classes that the image does not have, and go through
    keypoints one by one. Detections must come best first: see ``best_first``.
    """

    def __init__(self, truth: COCO, detections: COCO, iou_type: str, **options: Any) -> None:
        super().__init__(truth, detections, iou_type, print_function=logger.debug, **options)
        self.params.catIds = sorted(truth.getCatIds())  # it leaves out those without keypoints
        self.params.compute_rle = False

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray:
        """IoU of boxes or masks: (detections, objects)."""
        field = FIELDS[self.params.iouType]
        found, objects = self.dt_dataset.get(imgId, catId), self.gt_dataset.get(imgId, catId)
        return masks.iou(
            [detection[field] for detection in found],
            [thing[field] for thing in objects],
            [int(thing.get("iscrowd", 0)) for thing in objects],
        )

    def computeOks(self, imgId: int, catId: int) -> np.ndarray:
        """Object keypoint similarity: (detections, objects)."""
        found, objects = self.dt_dataset.get(imgId, catId), self.gt_dataset.get(imgId, catId)
        sigmas = np.asarray(self.params.kpt_oks_sigmas)  # (K,)
        points = np.array([d["keypoints"] for d in found]).reshape(len(found), 1, len(sigmas), 3)
        truth = np.array([o["keypoints"] for o in objects]).reshape(1, -1, len(sigmas), 3)
        boxes = np.array([o["bbox"] for o in objects], dtype=float)[:, None]  # (objects, 1, 4)
        areas = np.array([o["area"] for o in objects])[:, None]
        points, visible = points[..., :2], truth[..., 2] > 0
        # An object without visible keypoints takes what lies within twice its box.
        low, high = boxes[..., :2] - boxes[..., 2:], boxes[..., :2] + 2 * boxes[..., 2:]
        outside = np.maximum(low - points, 0) + np.maximum(points - high, 0)
        labelled = visible.any(axis=-1, keepdims=True)  # (1, objects, 1)
        distance = np.where(labelled[..., None], points - truth[..., :2], outside)
        error = (distance**2).sum(axis=-1) / (2 * sigmas) ** 2 / (areas + np.spacing(1)) / 2
        counted = visible | ~labelled
        return (np.exp(-error) * counted).sum(axis=-1) / counted.sum(axis=-1)


def evaluate_coco(
    dataset: dict[str, Any],
    results: Sequence[dict[str, Any]],
    iou_type: str,
    oks_sigmas: Sequence[float] | None = None,
) -> Evaluation:
    """COCO's metrics through faster-coco-eval: pycocotools' numbers, several times faster.

    dataset: the parsed annotation file; results: COCO's result dicts, possibly none, those of
    keypoints with their boxes, as Detectron2 gives them; iou_type: bbox, segm or keypoints;
    oks_sigmas: one a keypoint, COCO's if not given. The answer's ``stats`` begin with COCO's 12
    (for keypoints 10) numbers, its ``eval["precision"]`` are the curves. Changes no argument.
    """
    limits = MAX_DETECTIONS[iou_type]
    best = best_first(results, limits[-1], itemgetter("image_id", "category_id"))
    detections = [as_detection(number, result, iou_type) for number, result in enumerate(best, 1)]
    evaluation = Evaluation(
        load(dataset, dataset["annotations"], iou_type),
        COCO(dataset | {"annotations": detections}),
        iou_type,
        kpt_oks_sigmas=oks_sigmas,
    )
    evaluation.params.maxDets = list(limits)
    evaluation.run()
    return evaluation


def best_first(
    results: Sequence[dict[str, Any]], limit: int, group: Callable[[dict[str, Any]], Any]
) -> Iterator[dict[str, Any]]:
    """``results`` by falling score, at most ``limit`` of a group; ties stay in order."""
    scores = np.array([result["score"] for result in results])
    taken = Counter()
    for index in np.argsort(-scores, kind="stable"):
        result = results[index]
        key = group(result)
        taken[key] += 1
        if taken[key] <= limit:
            yield result


def as_detection(number: int, result: dict[str, Any], iou_type: str) -> dict[str, Any]:
    """A result as an annotation; its area is the mask's, or else the box's."""
    field = FIELDS[iou_type]
    if iou_type == "segm":
        area = int(masks.area(result[field]))
    else:
        area = result["bbox"][2] * result["bbox"][3]
    names = ("image_id", "category_id", "score", field)
    return {"id": number, "area": area} | {name: result[name] for name in names}


def load(dataset: dict[str, Any], annotations: list[dict[str, Any]], iou_type: str) -> COCO:
    """``annotations`` (copies: evaluation adds keys) with the rest of ``dataset``, masks as RLE."""
    truth = COCO(dataset | {"annotations": [dict(annotation) for annotation in annotations]})
    if iou_type == "segm":
        for annotation in truth.dataset["annotations"]:
            annotation["segmentation"] = truth.annToRLE(annotation)
    return truth


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator on faster-coco-eval, which needs no compiled part of Detectron2.

    A model without any detection scores 0 here, as in pycocotools, where Detectron2 says NaN.
    Raises ConfigError where the model's keypoints are not as many as the OKS sigmas.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        model, sigmas = cfg.MODEL, list(cfg.TEST.KEYPOINT_OKS_SIGMAS)
        wanted = {"bbox": True, "segm": model.MASK_ON, "keypoints": model.KEYPOINT_ON}
        keypoints = model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        if model.KEYPOINT_ON and keypoints != (len(sigmas) or COCO_KEYPOINTS):
            raise ConfigError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {keypoints}, but there are "
                f"{len(sigmas) or COCO_KEYPOINTS} OKS sigmas: give TEST.KEYPOINT_OKS_SIGMAS one "
                "for each keypoint (COCO's 17 if empty)"
            )
        super().__init__(
            dataset_name,
            tasks=[iou_type for iou_type, on in wanted.items() if on],
            use_fast_impl=False,
            kpt_oks_sigmas=sigmas,
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
                self._coco_api.dataset, results, iou_type, self._kpt_oks_sigmas or None
            )
            self._results[iou_type] = self._derive_coco_results(
                evaluation, iou_type, self._metadata.get("thing_classes")
            )
