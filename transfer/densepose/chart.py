"""The DensePose head: decoder, convolutions, chart predictor (spec/densepose.md, section 6).

State-dict keys are upstream's, so that its published weights load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
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
        return ChartOutputs(*(getattr(self, field.name)[item] for field in fields(self)))

    @classmethod
    def cat(cls, parts: Sequence[ChartOutputs]) -> ChartOutputs:
        """Those of several images, as ``Instances.cat`` needs."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def to(self, device: Any) -> ChartOutputs:
        """The same on another device."""
        return ChartOutputs(*(getattr(self, field.name).to(device) for field in fields(self)))


class Decoder(nn.Module):
    """Panoptic FPN's semantic branch: one map at ``DECODER_COMMON_STRIDE`` from all FPN levels."""

    def __init__(self, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> None:
        super().__init__()
        head = cfg.MODEL.ROI_DENSEPOSE_HEAD
        self.in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        for name in self.in_features:
            doublings = int(math.log2(input_shape[name].stride / head.DECODER_COMMON_STRIDE))
            layers, channels = [], input_shape[name].channels
            for _ in range(max(1, doublings)):
                conv = Conv2d(
                    channels,
                    head.DECODER_CONV_DIMS,
                    kernel_size=3,
                    padding=1,
                    bias=not head.DECODER_NORM,
                    norm=get_norm(head.DECODER_NORM, head.DECODER_CONV_DIMS),
                    activation=F.relu,
                )
                c2_msra_fill(conv)
                layers.append(conv)
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
                channels = head.DECODER_CONV_DIMS
            self.add_module(name, nn.Sequential(*layers))
        self.predictor = nn.Conv2d(head.DECODER_CONV_DIMS, head.DECODER_NUM_CLASSES, kernel_size=1)
        c2_msra_fill(self.predictor)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """FPN maps (B, C, H/s, W/s) by name to (B, DECODER_NUM_CLASSES, H/4, W/4)."""
        return self.predictor(sum(getattr(self, name)(features[name]) for name in self.in_features))


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
        self.up_scale = head.UP_SCALE

    def forward(self, features: Tensor) -> ChartOutputs:
        """(N, CONV_HEAD_DIM, R, R) to maps of side R * 2 * UP_SCALE."""
        layers = (self.ann_index_lowres, self.index_uv_lowres, self.u_lowres, self.v_lowres)
        return ChartOutputs(*(self._upsample(layer(features)) for layer in layers))

    def _upsample(self, maps: Tensor) -> Tensor:
        return F.interpolate(maps, scale_factor=self.up_scale, mode="bilinear")


def _deconv(head: CfgNode, channels: int) -> nn.ConvTranspose2d:
    kernel = head.DECONV_KERNEL
    layer = nn.ConvTranspose2d(
        head.CONV_HEAD_DIM, channels, kernel, stride=2, padding=kernel // 2 - 1
    )
    c2_msra_fill(layer)
    return layer
