"""Checkpoints of many methods into Detectron2's backbones: ``python -m transfer.convert``."""

from collections.abc import Mapping
from typing import Any

import torch

from pretrain.runtime.reading import CheckpointError, read, shown
from transfer.convert.backbones import find_backbone
from transfer.convert.converted import load_converted
from transfer.convert.layouts import METHODS

__all__ = ["METHODS", "CheckpointError", "load_converted", "read", "shown", "to_detectron2"]


def to_detectron2(
    checkpoint: Mapping[str, Any], method: str = "auto", prefix: str | None = None
) -> dict[str, torch.Tensor]:
    """The backbone in ``checkpoint`` under Detectron2's short names (``res2.0.conv1.weight``).

    As find_backbone, which says what comes out and what is an error. The method need not be known
    where only one backbone can be meant.
    """
    return find_backbone(checkpoint, method, prefix).detectron2
