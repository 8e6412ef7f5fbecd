"""Weights into a Detectron2 model: every backbone entry, or none; and BN that stays frozen."""

import copy
import re
import shlex
import textwrap
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from pretrain.runtime import reading
from pretrain.runtime.config import ConfigError, flatten, plain
from pretrain.runtime.reading import CheckpointError
from transfer.config import check_head
from transfer.convert import load_converted

RANDOM = "random"
WHOLE_MODEL = "model"  # in the place of a method: heads and all, for --eval-only

State = dict[str, torch.Tensor]

# Detectron2's names of backbone entries; roi_heads.res5.norm is the C4 head's own extra norm.
BACKBONE = re.compile(r"(?:^|\.)(?:stem|res[2-5])\.(?!norm\.)")
COUNTER = "num_batches_tracked"  # some sources have none, and FrozenBN wants none
PARTS = ("backbone.", "proposal_generator.", "roi_heads.")
# Older files of Detectron2's hold what follows from the config, too.
ANCHORS = re.compile(r"\.anchor_generator\.cell_anchors")
PIXELS = ("pixel_mean", "pixel_std")


def read(cfg: CfgNode, or_model: bool = False) -> tuple[State | None, dict[str, Any]]:
    """The entries of MODEL.WEIGHTS, and what is known of them; None for random ones.

    or_model: may be a whole model, too. Raises CheckpointError where it is something else, and
    ConfigError where converted weights need other settings.
    """
    path = cfg.MODEL.WEIGHTS
    if path == RANDOM:
        return None, {"method": RANDOM}
    if or_model and (model := read_model(path)) is not None:
        return model, {"method": WHOLE_MODEL}
    converted = load_converted(path)
    check_agreement(cfg, converted["meta"], path)
    return converted["model"], converted["meta"]


def check_agreement(cfg: CfgNode, meta: dict[str, Any], path: str) -> None:
    """ConfigError, with the pairs to add, where ``cfg`` contradicts what the weights need.

    There are none where the config's head cannot follow their trunk.

    meta: of the converted file; its ``config`` holds key and value of what fine-tuning must match.
    """
    check_head(cfg, meta["config"].get("MODEL.RESNETS.DEPTH"))
    have = plain(flatten(cfg))
    wrong = {key: value for key, value in plain(meta["config"]).items() if have.get(key) != value}
    if wrong:
        pairs = " ".join(f"{key} {shlex.quote(str(value))}" for key, value in wrong.items())
        raise ConfigError(
            f"{path}: these {meta['method']} weights need other settings than this config "
            f"({', '.join(f'{key} is {have.get(key)}' for key in wrong)}). Add: {pairs}"
        )


def read_model(path: str) -> State | None:
    """The entries of a whole Detectron2 model, such as a published ``model_final_*.pkl``.

    None where ``path`` holds something else. Nothing in the file is executed.
    """
    entries = reading.read(path).get("model")
    heads = entries if isinstance(entries, dict) else ()
    if not all(any(name.startswith(part) for name in heads) for part in PARTS):
        return None
    return {
        name: torch.as_tensor(value)
        for name, value in entries.items()
        if not ANCHORS.search(name) and COUNTER not in name
    }


def load_model(model: nn.Module, entries: State, path: str) -> None:
    """Load a whole model; CheckpointError where its entries are not those of ``model``.

    Older files say their pixels' mean and std: these must be the model's, too.
    """
    pairs = []
    for name in [name for name in PIXELS if name in entries]:
        theirs, ours = (x.flatten().cpu() for x in (entries.pop(name), getattr(model, name)))
        if not torch.allclose(theirs, ours):
            values = [round(value, 3) for value in theirs.tolist()]
            pairs.append(f"MODEL.{name.upper()} '{values}'")
    if pairs:
        raise CheckpointError(
            f"{path}: trained with other pixels. Add: {' '.join(pairs)} (Detectron2's own models "
            "also want INPUT.FORMAT BGR MODEL.RESNETS.STRIDE_IN_1X1 True)"
        )
    _fill(model, entries, path)


def load_backbone(model: nn.Module, weights: State, path: str) -> list[str]:
    """Load converted weights, and return the names in ``model`` that they filled.

    weights: by Detectron2's short names (``res2.0.conv1.weight``), each the end of exactly one name
    in ``model``. Raises CheckpointError when an entry has no place or another shape, and when a
    backbone entry of ``model`` is not in ``weights``; heads, FPN and extra norm may be missing.
    """
    state = model.state_dict()
    ends = {name: [key for key in state if f".{key}".endswith(f".{name}")] for name in weights}
    filled = {keys[0]: weights[name] for name, keys in ends.items() if len(keys) == 1}
    homeless = [name for name, keys in ends.items() if len(keys) != 1 and COUNTER not in name]
    trunk = [name for name in state if BACKBONE.search(name) and COUNTER not in name]
    missing = [name for name in trunk if name not in filled]
    for names, fault in (
        (homeless, "entries have no place in this model"),
        (missing, "backbone entries of this model are not in the file"),
    ):
        if names:
            raise CheckpointError(
                f"{path}: {len(names)} {fault} ({', '.join(names[:3])}, …). Was it another depth? "
                "See MODEL.RESNETS.DEPTH"
            )
    _fill(model, filled, path, strict=False)
    return list(filled)


def _fill(model: nn.Module, entries: State, path: str, strict: bool = True) -> None:
    try:
        model.load_state_dict(entries, strict)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its entries are not this config's ({textwrap.shorten(str(error), 300)}). "
            "Was it trained with another one? Give its keys as KEY VALUE"
        ) from error


def recompute_frozen_bn(model: GeneralizedRCNN, batches: Iterable, count: int) -> int:
    """Give every frozen BN of the trunk mean and variance of ``count`` batches, in place.

    Freezing (MODEL.BACKBONE.FREEZE_AT) turns BN into FrozenBatchNorm2d, with the statistics that
    the weights came with; those of random weights are no statistics at all.
    batches: lists of mapped images, as the training's loader has them.

    Returns how many layers there are. Each is computed with the statistics of the batch before it,
    as in training. All ranks get those of rank 0. Raises ConfigError where none is frozen.
    """
    trunk = getattr(model.backbone, "bottom_up", model.backbone)  # without FPN's own layers
    frozen = {
        name: layer for name, layer in trunk.named_modules() if isinstance(layer, FrozenBatchNorm2d)
    }
    if not frozen:
        raise ConfigError(
            f"TRANSFER.FROZEN_BN_BATCHES {count}: no BN is frozen. Add: MODEL.BACKBONE.FREEZE_AT 5"
        )
    live = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(copy.deepcopy(trunk)).train()
    update_bn_stats(live, (model.preprocess_image(batch).tensor for batch in batches), count)
    for name, layer in frozen.items():
        for statistic in ("running_mean", "running_var"):
            value = getattr(live.get_submodule(name), statistic)
            if comm.get_world_size() > 1:
                dist.broadcast(value, src=0)
            getattr(layer, statistic).copy_(value)
    return len(frozen)
