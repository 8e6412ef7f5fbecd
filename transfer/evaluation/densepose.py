"""DensePose's metrics, beside COCO's of the same boxes."""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from transfer.data.layout import data_root
from transfer.densepose.evaluator import DensePoseEvaluator
from transfer.evaluation.coco import FastCOCOEvaluator


def densepose_evaluators(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """COCO's ``bbox`` and, with MODEL.DENSEPOSE_ON, the three of ``DensePoseEvaluator``.

    Raises DataError where a file of the surface is missing or wrong.
    """
    evaluators = [FastCOCOEvaluator(cfg, dataset_name)]
    metadata = MetadataCatalog.get(dataset_name)
    if cfg.MODEL.DENSEPOSE_ON:
        evaluators.append(
            DensePoseEvaluator(
                dataset_name,
                cfg.TRANSFER.SURFACE
                or metadata.get("densepose_surface", data_root() / "densepose"),
                min_iou_threshold=cfg.DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD,
                distributed=cfg.DENSEPOSE_EVALUATION.DISTRIBUTED_INFERENCE,
            )
        )
    return DatasetEvaluators(evaluators)
