"""The DensePose head: decoder, convolutions, chart predictor (Güler et al., 2018, section 3).

State-dict keys are upstream's, so that its published weights load.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from fvcore.nn.weight_init import c2_msra_fill
from torch import Tensor, nn


@dataclass
class ChartOutputs:
    """What the predictor says about N boxes, on a grid of S x S cells over each box.

    coarse_segm: (N, 2 or 15, S, S) scores; fine_segm: (N, 25, S, S) scores, channel 0 is
    background; u, v: (N, 25, S, S), chart coordinates as they come, in [0, 1] once trained.
    """

    coarse_segm: Tensor
    fine_segm: Tensor
    u: Tensor
    v: Tensor

    def __len__(self) -> int:
        return len(self.coarse_segm)

    def __getitem__(self, item: int | slice | Tensor) -> ChartOutputs:
        """The chosen boxes; an int keeps the first axis."""
        if isinstance(item, int):
            item = slice(item, item + 1 or None)
        return self._each(lambda maps: maps[item])

    def to(self, device: Any) -> ChartOutputs:
        """The same on another device."""
        return self._each(lambda maps: maps.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> ChartOutputs:
        return ChartOutputs(*(change(getattr(self, field.name)) for field in fields(self)))


class Decoder(SemSegFPNHead):
    """Panoptic FPN's semantic branch: one map at ``DECODER_COMMON_STRIDE`` from all FPN levels."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        head = cfg.MODEL.ROI_DENSEPOSE_HEAD
        super().__init__(
            {name: input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES},
            num_classes=head.DECODER_NUM_CLASSES,
            conv_dims=head.DECODER_CONV_DIMS,
            common_stride=head.DECODER_COMMON_STRIDE,
            norm=head.DECODER_NORM,
        )

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """FPN maps (B, C, H/s, W/s) by name to (B, DECODER_NUM_CLASSES, H/4, W/4)."""
        return self.layers(features)


class DensePoseV1ConvXHead(nn.Module):
    """A stack of convolutions over the pooled boxes, with ReLU and without norm."""

    def __init__(self, cfg: CfgNode, in_channels: int) -> None:
        super().__init__()
        head = cfg.MODEL.ROI_DENSEPOSE_HEAD
        kernel = head.CONV_HEAD_KERNEL
        self.convs = [
            nn.Conv2d(width, head.CONV_HEAD_DIM, kernel, padding=kernel // 2)
            for width in [in_channels] + (head.NUM_STACKED_CONVS - 1) * [head.CONV_HEAD_DIM]
        ]
        for number, conv in enumerate(self.convs, start=1):
            c2_msra_fill(conv)
            self.add_module(f"body_conv_fcn{number}", conv)

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, C, R, R) to (N, CONV_HEAD_DIM, R, R)."""
        for conv in self.convs:
            pooled = F.relu(conv(pooled))
        return pooled


class ChartPredictor(nn.Module):
    """Four transposed convolutions, each followed by bilinear upsampling."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        head = cfg.MODEL.ROI_DENSEPOSE_HEAD
        charts = head.NUM_PATCHES + 1
        self.ann_index_lowres = _deconv(head, head.NUM_COARSE_SEGM_CHANNELS)
        self.index_uv_lowres = _deconv(head, charts)
        self.u_lowres = _deconv(head, charts)
        self.v_lowres = _deconv(head, charts)
        self.upsample = nn.Upsample(scale_factor=head.UP_SCALE, mode="bilinear")

    def forward(self, features: Tensor) -> ChartOutputs:
        """(N, CONV_HEAD_DIM, R, R) to maps of side R * 2 * UP_SCALE."""
        layers = (self.ann_index_lowres, self.index_uv_lowres, self.u_lowres, self.v_lowres)
        return ChartOutputs(*(self.upsample(layer(features)) for layer in layers))


def _deconv(head: CfgNode, channels: int) -> nn.ConvTranspose2d:
    kernel = head.DECONV_KERNEL
    layer = nn.ConvTranspose2d(
        head.CONV_HEAD_DIM, channels, kernel, stride=2, padding=kernel // 2 - 1
    )
    c2_msra_fill(layer)
    return layer
