"""The networks of a checkpoint, whoever wrote it, to be looked at."""

from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.config import get_cfg
from pretrain.methods import build_model
from pretrain.runtime import checkpoints
from pretrain.runtime.checkpoints import CheckpointError
from pretrain.runtime.reading import IN_CLOVE, read, read_newest


def load(path: Path) -> tuple[CfgNode, dict[str, nn.Module]]:
    """The config of a checkpoint (ours, a run's newest, or a released one), and two networks.

    "trained" is the checkpoint's, "untrained" the one that training began with. A released file
    holds neither: it gets the paper's config, and an untrained network like it. Raises
    CheckpointError for anything else.
    """
    path, content = read_newest(path) if path.is_dir() else (path, read(path, IN_CLOVE))
    cfg = get_cfg()
    ours = checkpoints.is_ours(content, path)
    try:
        if ours:
            cfg.merge_from_other_cfg(CfgNode(content["config"]))
        model = build_model(cfg)
        (model.load_state_dict if ours else model.load_released)(content["model"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: does not hold the networks of {'its config' if ours else 'CLoVE'} ({fact}). "
            "Name a checkpoint or a run of python -m pretrain, or a file as CLoVE's authors "
            "released it"
        ) from error
    torch.manual_seed(cfg.SEED)
    return cfg, {"trained": model, "untrained": build_model(cfg)}
