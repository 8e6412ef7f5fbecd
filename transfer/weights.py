"""Converted weights into a Detectron2 model: every backbone entry, or none."""

import re
import shlex
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from pretrain.runtime.config import ConfigError, flatten, plain
from pretrain.runtime.reading import CheckpointError, read

# Detectron2's names of backbone entries; roi_heads.res5.norm is the C4 head's own extra norm.
BACKBONE = re.compile(r"(?:^|\.)(?:stem|res[2-5])\.(?!norm\.)")
COUNTER = "num_batches_tracked"  # some sources have none, and FrozenBN wants none
PARTS = ("backbone.", "proposal_generator.", "roi_heads.")
# Older files of Detectron2's hold what follows from the config, too.
ANCHORS = re.compile(r"\.anchor_generator\.cell_anchors")
PIXELS = ("pixel_mean", "pixel_std")


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


def read_model(path: str) -> dict[str, torch.Tensor] | None:
    """The entries of a whole Detectron2 model, such as a published ``model_final_*.pkl``.

    None where ``path`` holds something else. Nothing in the file is executed.
    """
    entries = read(path).get("model")
    if not isinstance(entries, dict):
        return None
    if not all(any(name.startswith(part) for name in entries) for part in PARTS):
        return None
    return {
        name: torch.as_tensor(value)
        for name, value in entries.items()
        if not ANCHORS.search(name) and COUNTER not in name
    }


def load_model(model: nn.Module, entries: dict[str, torch.Tensor], path: str) -> None:
    """Load a whole model; CheckpointError where its entries are not those of ``model``.

    Older files say their pixels' mean and std: these must be the model's, too.
    """
    pixels = {name: entries.pop(name).flatten().cpu() for name in PIXELS if name in entries}
    ours = {name: getattr(model, name).flatten().cpu() for name in pixels}
    other = [name for name, value in pixels.items() if not torch.allclose(value, ours[name])]
    if other:
        pairs = " ".join(
            f"MODEL.{name.upper()} '{[round(number, 3) for number in value.tolist()]}'"
            for name, value in pixels.items()
        )
        raise CheckpointError(
            f"{path}: trained with another {' and '.join(other)}. Add: {pairs} (Detectron2's own "
            "models also want INPUT.FORMAT BGR MODEL.RESNETS.STRIDE_IN_1X1 True)"
        )
    state = model.state_dict()
    wanted = {name: value.shape for name, value in state.items() if COUNTER not in name}
    found = {name: value.shape for name, value in entries.items()}
    wrong = sorted(
        name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)
    )
    if wrong:
        shapes = [f"{name}: {found.get(name)}, not {wanted.get(name)}" for name in wrong[:3]]
        raise CheckpointError(
            f"{path}: {len(wrong)} entries are not this config's ({'; '.join(shapes)}, …). "
            "Was it trained with another one? Give its keys as KEY VALUE"
        )
    model.load_state_dict(entries, strict=False)


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
