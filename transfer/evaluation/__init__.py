"""Evaluators, chosen by the data set's ``evaluator_type`` in Detectron2's metadata."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from pretrain.runtime.config import ConfigError
from transfer.evaluation.cityscapes import CityscapesEvaluator
from transfer.evaluation.coco import FastCOCOEvaluator, evaluate_coco
from transfer.evaluation.densepose import densepose_evaluators
from transfer.evaluation.lvis import FastLVISEvaluator, evaluate_lvis
from transfer.evaluation.pascal_voc import VOCEvaluator

__all__ = ["EVALUATORS", "build_evaluator", "evaluate_coco", "evaluate_lvis"]

EVALUATORS: dict[str, Callable[[CfgNode, str], DatasetEvaluator]] = {
    "coco": FastCOCOEvaluator,
    "lvis": FastLVISEvaluator,
    "cityscapes_instance": CityscapesEvaluator,
    "pascal_voc": VOCEvaluator,
    "densepose": densepose_evaluators,
}


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of a registered data set; ConfigError where its layout has none."""
    layout = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if layout not in EVALUATORS:
        raise ConfigError(
            f"{dataset_name}: evaluator_type {layout} has no evaluator; known: "
            f"{', '.join(EVALUATORS)}. A file given with --import may add to "
            "transfer.evaluation.EVALUATORS"
        )
    return EVALUATORS[layout](cfg, dataset_name)
