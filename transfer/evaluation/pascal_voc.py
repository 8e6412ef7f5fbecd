"""PASCAL VOC's metric, by Detectron2's evaluator: 11-point AP for VOC 2007."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec

from pretrain.runtime.files import DataError


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's, for a class without objects, too: it scores 0.

    As in Detectron2, scores count to three decimals. Raises DataError for an XML file that does not
    hold what evaluation reads.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(dataset_name)
        self._read_labels()  # a fault is better said now than after the training

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"bbox": {"AP", "AP50", "AP75"}}`` in percent; None on ranks other than 0."""
        labelled = {thing["name"] for thing in self._read_labels() if not thing["difficult"]}
        # Of no objects, Detectron2's recall is 0 / 0 once something is predicted.
        kept = {k: v for k, v in self._predictions.items() if self._class_names[k] in labelled}
        self._predictions = defaultdict(list, kept)
        return super().evaluate()

    def _read_labels(self) -> list[dict[str, Any]]:
        """All objects of the test set, as Detectron2 reads and remembers them."""
        parse_rec.cache_clear()  # it remembers files by their names
        objects = []
        for image_id in Path(self._image_set_path).read_text().split():
            file = self._anno_file_template.format(image_id)
            try:
                objects += parse_rec(file)
            except (AttributeError, TypeError, ValueError) as fault:
                needed = "name, pose, truncated, difficult, a box in whole pixels"
                raise DataError(f"{file}: an object lacks one of {needed} ({fault})") from fault
        return objects
