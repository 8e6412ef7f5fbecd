"""Detectron2's standard RoI heads with the DensePose branch (Güler et al., 2018, section 3)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from transfer.densepose.chart import ChartPredictor, Decoder, DensePoseV1ConvXHead
from transfer.densepose.losses import densepose_losses

# Upstream's, where its package ``densepose`` was imported before
ROI_HEADS_REGISTRY._obj_map.pop("DensePoseROIHeads", None)


@ROI_HEADS_REGISTRY.register()
class DensePoseROIHeads(StandardROIHeads):
    """The box branch and, with MODEL.DENSEPOSE_ON, the chart-based DensePose branch.

    In training its proposals need ``gt_densepose`` (``Annotations``) where a person is annotated;
    in inference the instances get ``pred_densepose`` (``ChartOutputs``), unless the whole batch has
    no detection.
    """

    @configurable
    def __init__(self, *, densepose: dict[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.densepose_on = densepose is not None
        for name, value in (densepose or {}).items():
            setattr(self, name, value)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments of StandardROIHeads, and the branch's parts by their names."""
        arguments = super().from_config(cfg, input_shape)
        if not cfg.MODEL.DENSEPOSE_ON:
            return arguments
        head, levels = cfg.MODEL.ROI_DENSEPOSE_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
        strides = [input_shape[name].stride for name in levels]
        channels = input_shape[levels[0]].channels
        if head.DECODER_ON:
            strides, channels = [head.DECODER_COMMON_STRIDE], head.DECODER_NUM_CLASSES
        arguments["densepose"] = {
            "decoder": Decoder(cfg, input_shape) if head.DECODER_ON else None,
            "densepose_pooler": ROIPooler(
                output_size=head.POOLER_RESOLUTION,
                scales=[1 / stride for stride in strides],
                sampling_ratio=head.POOLER_SAMPLING_RATIO,
                pooler_type=head.POOLER_TYPE,
            ),
            "densepose_head": DensePoseV1ConvXHead(cfg, channels),
            "densepose_predictor": ChartPredictor(cfg),
            "fg_iou_threshold": head.FG_IOU_THRESHOLD,
            "loss_weights": {
                "index": head.INDEX_WEIGHTS,
                "part": head.PART_WEIGHTS,
                "point": head.POINT_REGRESSION_WEIGHTS,
            },
        }
        return arguments

    def forward(
        self,
        images: Any,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See ``StandardROIHeads``; ``densepose_losses`` are added to its own."""
        instances, losses = super().forward(images, features, proposals, targets)
        if self.training and self.densepose_on:
            losses.update(self._densepose_losses(features, instances))
        return instances, losses

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """See ``StandardROIHeads``; sets ``pred_densepose``, too."""
        instances = super().forward_with_given_boxes(features, instances)
        if self.densepose_on and any(len(image) for image in instances):
            outputs = self._predict(features, [image.pred_boxes for image in instances])
            first = 0
            for image in instances:
                image.pred_densepose = outputs[first : first + len(image)]
                first += len(image)
        return instances

    def _densepose_losses(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        foreground, _ = select_foreground_proposals(proposals, self.num_classes)
        kept = [select_annotated(image, self.fg_iou_threshold) for image in foreground]
        outputs = self._predict(features, [image.proposal_boxes for image in kept])
        return densepose_losses(outputs, kept, **self.loss_weights)

    def _predict(self, features: dict[str, Tensor], boxes: list[Any]) -> Any:
        if self.decoder is not None:
            maps = [self.decoder(features)]
        else:
            maps = [features[name] for name in self.box_in_features]
        # ROIAlign rounds boxes to the maps' type: in half types by whole pixels
        maps = [level.float() for level in maps]
        return self.densepose_predictor(self.densepose_head(self.densepose_pooler(maps, boxes)))


def select_annotated(proposals: Instances, iou_threshold: float) -> Instances:
    """The foreground proposals of an image that train the head: none, where nobody is annotated.

    Kept is what overlaps its matched, annotated person by an IoU strictly above the threshold.
    """
    if not proposals.has("gt_densepose"):
        return proposals[:0]
    overlap = matched_pairwise_iou(proposals.gt_boxes, proposals.proposal_boxes)
    annotated = [entry is not None for entry in proposals.gt_densepose]
    annotated = torch.tensor(annotated, dtype=torch.bool, device=overlap.device)
    return proposals[((overlap > iou_threshold) & annotated).nonzero()[:, 0]]
