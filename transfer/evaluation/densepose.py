"""DensePose's metrics, beside COCO's of the same boxes."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.structures import Instances

from transfer.data import densepose
from transfer.data.layout import data_root
from transfer.densepose.evaluator import DensePoseEvaluator
from transfer.evaluation.coco import FastCOCOEvaluator


class BoxEvaluator(FastCOCOEvaluator):
    """COCO's, on the boxes alone: it would bring the maps from the GPU, megabytes a detection."""

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See ``COCOEvaluator``."""
        boxes = []
        for output in outputs:
            found = output["instances"]
            fields = {name: found.get(name) for name in ("pred_boxes", "scores", "pred_classes")}
            boxes.append({"instances": Instances(found.image_size, **fields)})
        super().process(inputs, boxes)


def densepose_evaluators(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """COCO's ``bbox`` and, with MODEL.DENSEPOSE_ON, the three of ``DensePoseEvaluator``.

    Raises DataError where a file of the surface is missing or wrong.
    """
    if not cfg.MODEL.DENSEPOSE_ON:
        return FastCOCOEvaluator(cfg, dataset_name, densepose.read)
    surface = MetadataCatalog.get(dataset_name).get("densepose_surface", data_root() / "densepose")
    if cfg.TRANSFER.SURFACE:
        surface = data_root() / cfg.TRANSFER.SURFACE
    minimum = cfg.DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD
    boxes = BoxEvaluator(cfg, dataset_name, densepose.read)
    maps = DensePoseEvaluator(dataset_name, surface, min_iou_threshold=minimum)
    return DatasetEvaluators([boxes, maps])
