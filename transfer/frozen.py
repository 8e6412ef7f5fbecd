"""A frozen trunk with BN statistics of the images that it is used on.

Freezing (MODEL.BACKBONE.FREEZE_AT) turns BN into FrozenBatchNorm2d, with the statistics that the
weights came with; those of random weights are no statistics at all.
"""

import copy
from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import GeneralizedRCNN
from detectron2.utils import comm
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from pretrain.runtime.config import ConfigError


class _Trunk(nn.Module):
    """A copy of a model's trunk in which frozen BN is BN again; its input is a batch of images."""

    def __init__(self, model: GeneralizedRCNN, trunk: nn.Module) -> None:
        super().__init__()
        self.preprocess_image = model.preprocess_image
        trunk = copy.deepcopy(trunk)
        self.trunk = FrozenBatchNorm2d.convert_frozenbatchnorm2d_to_batchnorm2d(trunk)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        return self.trunk(self.preprocess_image(batch).tensor)


def recompute_frozen_bn(model: GeneralizedRCNN, batches: Iterable, count: int) -> int:
    """Give every frozen BN of the trunk mean and variance of ``count`` batches, in place.

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
    live = _Trunk(model, trunk).train()
    update_bn_stats(live, batches, count)
    for name, layer in frozen.items():
        for statistic in ("running_mean", "running_var"):
            value = getattr(live.trunk.get_submodule(name), statistic)
            if comm.get_world_size() > 1:
                dist.broadcast(value, src=0)
            getattr(layer, statistic).copy_(value)
    return len(frozen)
