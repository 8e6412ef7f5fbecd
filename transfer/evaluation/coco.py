"""COCO's metrics of boxes, masks and keypoints, through faster-coco-eval."""

import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from faster_coco_eval import COCOeval_faster
from pycocotools import mask as masks

from pretrain.runtime.config import ConfigError
from transfer.data import coco
from transfer.data.reading import Labels, by_id

logger = logging.getLogger(__name__)

# Of one class in one image; the last one counts for AP.
MAX_DETECTIONS = {"bbox": (1, 10, 100), "segm": (1, 10, 100), "keypoints": (20,)}
COCO_KEYPOINTS = 17


class Evaluation(COCOeval_faster):
    """faster-coco-eval's matching and curves; what it does before that is done here, and faster.

    It would copy and index all annotations, and decode every mask, also those of classes that the
    image does not have. objects: of ``as_object``; detections: of ``as_detection``, in an image
    best first. Ids are names: what stands for them here are their places in order.
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
        self._images, self._categories = (
            {name: place for place, name in enumerate(sorted(ids, key=by_id))}
            for ids in (image_ids, category_ids)
        )
        self.params.imgIds = list(self._images.values())
        self.params.catIds = list(self._categories.values())
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
            pairs.append(set())
            for annotation in annotations:
                pair = (
                    self._images[annotation.pop("image_id")],
                    self._categories[annotation.pop("category_id")],
                )
                target.append_ref(*pair, annotation)
                pairs[-1].add(pair)
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
    for number, annotation in enumerate(dataset["annotations"], start=1):
        crowd = int(annotation.get("iscrowd") or 0)
        ignore = crowd or (iou_type == "keypoints" and not any(annotation["keypoints"][2::3]))
        thing = as_object(number, annotation, iou_type, sizes[annotation["image_id"]])
        objects.append(thing | {"iscrowd": crowd, "ignore": ignore})
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


def as_object(
    number: int, annotation: dict[str, Any], iou_type: str, size: tuple[int, int]
) -> dict[str, Any]:
    """What is evaluated of an annotation; size: (height, width) of its image, for masks as RLE.

    number: from 1 on, in place of its id, which is a name (0 would mean "nothing matched").
    """
    thing = {key: annotation[key] for key in ("image_id", "category_id", "area")} | {"id": number}
    if iou_type != "segm":
        return thing | {key: annotation[key] for key in {"bbox", iou_type}}
    label = annotation["segmentation"]
    if isinstance(label, list):  # polygons
        label = masks.merge(masks.frPyObjects(label, *size))
    elif isinstance(label["counts"], list):
        label = masks.frPyObjects(label, *size)
    return thing | {"rle": label}


class LabelledEvaluator(COCOEvaluator):
    """Detectron2's gathering of predictions, beside labels that were read and checked here.

    labels: the content of the data set's JSON file. Detectron2 itself would read it unchecked.
    """

    def __init__(self, dataset_name: str, labels: dict[str, Any], tasks: Sequence[str]) -> None:
        self._logger, self._distributed, self._output_dir = logger, True, None
        self._cpu_device, self._metadata = torch.device("cpu"), MetadataCatalog.get(dataset_name)
        self.labels, self._tasks = labels, tasks


class FastCOCOEvaluator(LabelledEvaluator):
    """Detectron2's COCO evaluator on faster-coco-eval, which needs no compiled part of Detectron2.

    A model without any detection scores 0 here, as in pycocotools, where Detectron2 says NaN.
    read: of the data set's layout. Raises ConfigError where the model's keypoints are not as many
    as the OKS sigmas.
    """

    def __init__(
        self, cfg: CfgNode, dataset_name: str, read: Callable[[str], Labels] = coco.read
    ) -> None:
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
        self._sigmas = sigmas
        super().__init__(dataset_name, read(dataset_name).content, tasks)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Sequence[int] | None = None
    ) -> None:
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        classes = self._metadata.thing_dataset_id_to_contiguous_id
        category_ids = {index: category_id for category_id, index in classes.items()}
        results = [r | {"category_id": category_ids[r["category_id"]]} for r in results]
        for iou_type in self._tasks:
            evaluation = evaluate_coco(self.labels, results, iou_type, self._sigmas or None)
            self._results[iou_type] = self._derive_coco_results(
                evaluation, iou_type, self._metadata.get("thing_classes")
            )
