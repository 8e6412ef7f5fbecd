"""Converted weights into a Detectron2 model: every backbone entry, or none."""

import re
import shlex
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from pretrain.runtime.config import ConfigError, flatten, plain
from transfer.checkpoints import CheckpointError

# Detectron2's names of backbone entries; roi_heads.res5.norm is the C4 head's own extra norm.
BACKBONE = re.compile(r"(?:^|\.)(?:stem|res[2-5])\.(?!norm\.)")
COUNTER = "num_batches_tracked"  # some sources have none, and FrozenBN wants none


def check_agreement(cfg: CfgNode, meta: dict[str, Any], path: str) -> None:
    """ConfigError, with the pairs to add, where ``cfg`` contradicts what the weights need.

    meta: of the converted file; its ``config`` holds key and value of what fine-tuning must match.
    """
    have = plain(flatten(cfg))
    wrong = {
        key: needed for key, needed in meta["config"].items() if have.get(key) != plain(needed)
    }
    if wrong:
        pairs = " ".join(f"{key} {shlex.quote(str(plain(value)))}" for key, value in wrong.items())
        raise ConfigError(
            f"{path}: these {meta['method']} weights need other settings than this config "
            f"({', '.join(f'{key} is {have.get(key)}' for key in wrong)}). Add: {pairs}"
        )


def load_backbone(model: nn.Module, weights: dict[str, torch.Tensor], path: str) -> list[str]:
    """Load converted weights, and return the names in ``model`` that they filled.

    weights: by Detectron2's short names (``res2.0.conv1.weight``), each the end of exactly one name
    in ``model``. Raises CheckpointError when an entry has no place or another shape, and when a
    backbone entry of ``model`` is not in ``weights``; heads, FPN and extra norm may be missing.
    """
    state = model.state_dict()
    places = {name: _place(name, state) for name in weights}
    homeless = [name for name, place in places.items() if place is None and COUNTER not in name]
    if homeless:
        raise CheckpointError(
            f"{path}: {len(homeless)} of {len(weights)} entries have no place in this model "
            f"({', '.join(homeless[:3])}, …). Was it another depth? See MODEL.RESNETS.DEPTH"
        )
    filled = {place: weights[name] for name, place in places.items() if place is not None}
    missing = [name for name in state if BACKBONE.search(name) and name not in filled]
    missing = [name for name in missing if COUNTER not in name]
    if missing:
        raise CheckpointError(
            f"{path}: {len(missing)} backbone entries of this model are not in the file "
            f"({', '.join(missing[:3])}, …). Was it another depth? See MODEL.RESNETS.DEPTH"
        )
    for name, value in filled.items():
        if value.shape != state[name].shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(value.shape)} in the file and "
                f"{tuple(state[name].shape)} in this model. Was it another architecture?"
            )
    model.load_state_dict(filled, strict=False)
    return list(filled)


def _place(name: str, state: dict[str, torch.Tensor]) -> str | None:
    """The one entry of ``state`` called ``name``, whatever module it lies in."""
    found = [key for key in state if key == name or key.endswith(f".{name}")]
    return found[0] if len(found) == 1 else None
