"""PASCAL VOC's metric, by Detectron2's evaluator: 11-point AP for VOC 2007."""

from collections import defaultdict
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.evaluation import PascalVOCDetectionEvaluator
from detectron2.evaluation.pascal_voc_evaluation import parse_rec


class VOCEvaluator(PascalVOCDetectionEvaluator):
    """Detectron2's, for a class without objects, too: it scores 0.

    As in Detectron2, scores count to three decimals.
    """

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(dataset_name)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"bbox": {"AP", "AP50", "AP75"}}`` in percent; None on ranks other than 0."""
        parse_rec.cache_clear()  # it remembers files by their names
        labelled = {
            thing["name"]
            for image_id in Path(self._image_set_path).read_text().split()
            for thing in parse_rec(self._anno_file_template.format(image_id))
            if not thing["difficult"]
        }
        # Of no objects, Detectron2's recall is 0 / 0 once something is predicted.
        self._predictions = defaultdict(
            list,
            {
                index: lines
                for index, lines in self._predictions.items()
                if self._class_names[index] in labelled
            },
        )
        return super().evaluate()
