"""Region heads that Detectron2 lacks."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """The C4 head with a norm of type RESNETS.NORM after the whole of res5, as MoCo introduced it.

    Its parameters are ``roi_heads.res5.norm.*``: 2048 channels for R50, scale 1 and shift 0 at the
    start, in no pre-trained file.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """The arguments of Res5ROIHeads, with the norm appended to its res5."""
        arguments = super().from_config(cfg, input_shape)
        res5 = arguments["res5"]
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, res5[-1].out_channels))
        return arguments
