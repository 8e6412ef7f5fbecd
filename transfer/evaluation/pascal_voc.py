"""PASCAL VOC's metric, by Detectron2's evaluator: 11-point AP for VOC 2007."""

from collections import defaultdict

import numpy as np
from detectron2.config import CfgNode
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's, for a class without detections, too: it scores 0, as one without objects does.

    As in Detectron2, scores count to three decimals.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(dataset_name)

    def reset(self) -> None:
        # Detectron2 takes a class that is missing here for one with an empty line, and fails.
        self._predictions = defaultdict(list, {k: [] for k in range(len(self._class_names))})

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"bbox": {"AP", "AP50", "AP75"}}`` in percent; None on ranks other than 0."""
        parse_rec.cache_clear()  # it remembers files by their names
        with np.errstate(invalid="ignore"):  # recall of no objects
            return super().evaluate()
