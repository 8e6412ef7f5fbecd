"""Cityscapes' metric of instance segmentation, by Cityscapes' own scripts."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
from detectron2.config import CfgNode
from detectron2.evaluation import CityscapesInstanceEvaluator


class _Numpy(SimpleNamespace):
    """numpy with ``in1d``, which it had until 2.3 and the scripts still call."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def _write_nothing(content: dict[str, Any], path: str) -> None:
    """In place of what writes all matches into the working directory, and numpy's numbers not."""


class CityscapesEvaluator(CityscapesInstanceEvaluator):
    """Detectron2's, on any numpy, and silent; it works on one machine, with any number of ranks."""

    def __init__(self, cfg: CfgNode, dataset_name: str) -> None:
        super().__init__(dataset_name)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """``{"segm": {"AP", "AP50"}}`` in percent; None on ranks other than 0."""
        scripts.np = _Numpy(in1d=np.isin)
        scripts.writeDict2JSON = _write_nothing
        scripts.args.quiet = True
        return super().evaluate()
