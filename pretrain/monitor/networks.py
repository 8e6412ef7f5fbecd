"""The networks of a checkpoint, whoever wrote it, to be looked at."""

import logging
import re
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from pretrain.config import get_cfg
from pretrain.methods.clove import CLoVE
from pretrain.run import build_model
from pretrain.runtime import checkpoints
from pretrain.runtime.checkpoints import CheckpointError


class _Ignored:
    """In the place of what the released files hold beside weights: options and numpy's numbers."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# The names that torch.load may meet; none of them is called, as nothing of it is needed
IN_RELEASED = [
    (_Ignored, name)
    for name in (
        "argparse.Namespace",
        "numpy.dtype",
        "numpy.ndarray",
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")  # numpy 1 and 2
            for function in ("scalar", "_reconstruct")
        ),
    )
]


def load(path: Path) -> tuple[CfgNode, dict[str, CLoVE]]:
    """The config of a checkpoint (ours, a run's newest, or a released one), and two networks.

    "trained" is the checkpoint's, "untrained" the one that training began with. A released file
    holds neither: it gets the paper's config, and an untrained network like it. Raises
    CheckpointError for anything else.
    """
    content = read(path)
    cfg = get_cfg()
    ours = content.get("kind") == checkpoints.KIND
    try:
        if ours:
            cfg.merge_from_other_cfg(CfgNode(content["config"]))
        model = build_model(cfg)
        (model.load_state_dict if ours else model.load_released)(content["model"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: does not hold the networks of CLoVE ({fact}). Name a checkpoint or a run of "
            "python -m pretrain, or a file as CLoVE's authors released it"
        ) from error
    torch.manual_seed(cfg.SEED)
    return cfg, {"trained": model, "untrained": build_model(cfg)}


def read(path: Path) -> dict[str, Any]:
    """What a file holds, or the newest file of a run's folder; nothing in it is executed."""
    if path.is_dir():
        if content := checkpoints.load_latest(path, logging.getLogger("pretrain")):
            return content
        raise CheckpointError(
            f"{path}: no checkpoints/step_*.pth in it; name a checkpoint, or the folder of a run"
        )
    try:
        with torch.serialization.safe_globals(IN_RELEASED):
            content = torch.load(str(path), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make a reader raise anything
        # torch's own message goes on with advice to read the file unsafely: take the fact only
        text = getattr(error, "strerror", None) or str(error)
        text = text.rpartition("WeightsUnpickler error:")[2]
        fact = re.search(r"GLOBAL \S+", text) or re.search(r"\S.*", text)
        raise CheckpointError(
            f"{path}: cannot be read ({fact[0] if fact else type(error).__name__}). Name a "
            "complete checkpoint of tensors and plain values; nothing else is read"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds {type(content).__name__}, not a checkpoint")
    if content.get("kind") == checkpoints.KIND:
        checkpoints.check_format(path, content)
    return content
