"""COCO's metrics of boxes, masks and keypoints, through faster-coco-eval."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator
from faster_coco_eval import COCOeval_faster
from pycocotools import mask as masks

from pretrain.runtime.config import ConfigError

logger = logging.getLogger(__name__)

# Of one class in one image; the last one counts for AP.
MAX_DETECTIONS = {"bbox": (1, 10, 100), "segm": (1, 10, 100), "keypoints": (20,)}
COCO_KEYPOINTS = 17


class Evaluation(COCOeval_faster):
    """faster-coco-eval's matching and curves; what it does before that is done here, and faster.

    It would copy and index all annotations, and decode every mask, also those of classes that the
    image does not have. objects: of ``as_object``; detections: of ``as_detection``, in an image
    best first.
    """

    def __init__(
        self,
        objects: list[dict[str, Any]],
        detections: list[dict[str, Any]],
        iou_type: str,
        image_ids: Iterable[int],
        category_ids: Iterable[int],
        max_detections: Sequence[int],
        oks_sigmas: Sequence[float] | None = None,
    ) -> None:
        super().__init__(iouType=iou_type, print_function=logger.debug, kpt_oks_sigmas=oks_sigmas)
        self.params.imgIds, self.params.catIds = sorted(image_ids), sorted(category_ids)
        self.params.maxDets = list(max_detections)
        self.params.compute_rle = iou_type == "segm"
        self._objects, self._detections = objects, detections

    def _prepare(self) -> None:
        """Hand both to the compiled part, and tell ``evaluate`` which pairs have overlaps."""
        pairs = []
        for target, annotations in (
            (self.gt_dataset, self._objects),
            (self.dt_dataset, self._detections),
        ):
            target.clean()
            pairs.append({(a["image_id"], a["category_id"]) for a in annotations})
            for annotation in annotations:
                target.append_ref(annotation["image_id"], annotation["category_id"], annotation)
        self._nonempty_iou_pairs = pairs[0] & pairs[1]


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
    sizes = {image["id"]: (image["height"], image["width"]) for image in dataset["images"]}
    objects = []
    for annotation in dataset["annotations"]:
        crowd = int(annotation.get("iscrowd", 0))
        ignore = crowd or (iou_type == "keypoints" and annotation["num_keypoints"] == 0)
        size = sizes[annotation["image_id"]]
        objects.append(as_object(annotation, iou_type, size) | {"iscrowd": crowd, "ignore": ignore})
    limits = MAX_DETECTIONS[iou_type]
    best = best_first(results, limits[-1], itemgetter("image_id", "category_id"))
    evaluation = Evaluation(
        objects,
        [as_detection(number, result, iou_type) for number, result in enumerate(best, start=1)],
        iou_type,
        image_ids=sizes,
        category_ids=[category["id"] for category in dataset["categories"]],
        max_detections=limits,
        oks_sigmas=oks_sigmas,
    )
    evaluation.run()
    return evaluation


def best_first(
    results: Sequence[dict[str, Any]], limit: int, group: Callable[[dict[str, Any]], Any]
) -> list[dict[str, Any]]:
    """Group by group, at most ``limit`` of the results by falling score; ties stay in order.

    What lies together in memory stays together: sorting all results made all that follows slower.
    """
    groups = defaultdict(list)
    for result in results:
        groups[group(result)].append(result)
    score = itemgetter("score")
    return [r for own in groups.values() for r in sorted(own, key=score, reverse=True)[:limit]]


def as_detection(number: int, result: dict[str, Any], iou_type: str) -> dict[str, Any]:
    """A result as an annotation; its area is the mask's, or else the box's."""
    detection = {key: result[key] for key in ("image_id", "category_id", "score")} | {"id": number}
    if iou_type == "segm":
        rle = result["segmentation"]
        return detection | {"rle": rle, "area": int(masks.area(rle))}
    area = result["bbox"][2] * result["bbox"][3]
    return detection | {iou_type: result[iou_type], "area": area}


def as_object(annotation: dict[str, Any], iou_type: str, size: tuple[int, int]) -> dict[str, Any]:
    """A copy of an annotation (evaluation adds keys); size: (height, width), for masks as RLE."""
    if iou_type != "segm":
        return dict(annotation)
    label = annotation["segmentation"]
    if isinstance(label, list):  # polygons
        label = masks.merge(masks.frPyObjects(label, *size))
    elif isinstance(label["counts"], list):
        label = masks.frPyObjects(label, *size)
    return annotation | {"rle": label}


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCO evaluator on faster-coco-eval, which needs no compiled part of Detectron2.

    A model without any detection scores 0 here, as in pycocotools, where Detectron2 says NaN.
    Raises ConfigError where the model's keypoints are not as many as the OKS sigmas.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        model, sigmas = cfg.MODEL, list(cfg.TEST.KEYPOINT_OKS_SIGMAS)
        wanted = {"bbox": True, "segm": model.MASK_ON, "keypoints": model.KEYPOINT_ON}
        tasks = [iou_type for iou_type, on in wanted.items() if on]
        keypoints = model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
        if model.KEYPOINT_ON and keypoints != (len(sigmas) or COCO_KEYPOINTS):
            raise ConfigError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS is {keypoints}, but there are "
                f"{len(sigmas) or COCO_KEYPOINTS} OKS sigmas: give TEST.KEYPOINT_OKS_SIGMAS one "
                "for each keypoint (COCO's 17 if empty)"
            )
        super().__init__(dataset_name, tasks=tasks, use_fast_impl=False, kpt_oks_sigmas=sigmas)

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
