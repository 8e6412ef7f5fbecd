"""The converter's proof: Detectron2 computes with the converted tensors what torchvision does.

In eval mode, stage by stage, the C4 and FPN backbones must give the features that torchvision's
ResNet gives with the source's tensors. It catches misplaced strides, names and shapes at once.
ResNet-18 and 34 have no C4 backbone: Detectron2's C4 head is made of bottlenecks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretrain.encoder import STAGES, WITHOUT_BOTTLENECKS, build_encoder
from pretrain.runtime.reading import CheckpointError

TOLERANCE = 1e-4  # of a stage's largest value

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class StageProof:
    """max |Detectron2 - torchvision| as a share of max |torchvision|, after one stage.

    differences: of the kinds of backbone, ``FPN`` and, but for ResNet-18 and 34, ``C4``.
    """

    stage: str
    differences: dict[str, float]

    @property
    def holds(self) -> bool:
        """NaN does not hold."""
        return all(difference <= TOLERANCE for difference in self.differences.values())

    def __str__(self) -> str:
        return "  ".join(f"{kind} {value:.1e}" for kind, value in self.differences.items())


@torch.no_grad()
def prove(
    source: Tensors,
    converted: Tensors,
    config: Mapping[str, Any],
    stride_in_1x1: bool = False,
) -> list[StageProof]:
    """Compare the features of torchvision's trunk and Detectron2's, on one fixed image.

    source, converted: the same tensors under torchvision's and Detectron2's names.
    config: what fine-tuning must match, by Detectron2's keys; the depth is among it.
    stride_in_1x1: of the network that the weights were trained in; torchvision's own is False.
    Raises CheckpointError when a backbone entry was not loaded, or when a stage differs by more
    than TOLERANCE.
    """
    depth = config["MODEL.RESNETS.DEPTH"]
    image = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):
        encoder = build_encoder(f"resnet{depth}").eval()
    # Without batch counters those stay on the meta device: evaluation does not touch them.
    encoder.load_state_dict(source, strict=False, assign=True)
    if stride_in_1x1:
        _move_strides(encoder)
    reference = encoder.stages(image)
    if not all(torch.isfinite(features).all() for features in reference.values()):
        raise CheckpointError(
            "the source's own features are not finite: its BN statistics are unusable"
        )
    kinds = {"FPN": _detectron2_fpn}
    if depth not in WITHOUT_BOTTLENECKS:
        kinds = {"C4": _detectron2_c4} | kinds
    features = {}
    for kind, build in kinds.items():
        model, stages = build(config)
        _load_all(model, converted, f"R{depth}-{kind}")
        features[kind] = stages(image)
    proof = [
        StageProof(
            stage, {kind: _difference(features[kind][stage], reference[stage]) for kind in kinds}
        )
        for stage in STAGES
    ]
    wrong = [row for row in proof if not row.holds]
    if wrong:
        shown = ", ".join(f"{row.stage}: {row}" for row in wrong)
        raise CheckpointError(
            f"Detectron2's features differ from the source's by more than {TOLERANCE:.0e} of a "
            f"stage's largest value ({shown}), with MODEL.RESNETS.STRIDE_IN_1X1 "
            f"{config['MODEL.RESNETS.STRIDE_IN_1X1']}"
        )
    return proof


def _move_strides(encoder: nn.Module) -> None:
    """From the 3x3 convolution to the 1x1 before it, as in the ResNets of MSRA."""
    for name, module in encoder.named_modules():
        if name.endswith("conv2") and module.stride == (2, 2):
            before = encoder.get_submodule(name.removesuffix("conv2") + "conv1")
            before.stride, module.stride = module.stride, before.stride


def _difference(ours: torch.Tensor, reference: torch.Tensor) -> float:
    if ours.shape != reference.shape:
        return float("inf")
    scale = reference.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((ours - reference).abs().max() / scale)


def _detectron2_config(config: Mapping[str, Any], stages: tuple[str, ...]):
    from detectron2.config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_list([part for pair in config.items() for part in pair])
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = list(stages)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    return cfg


Stages = Callable[[torch.Tensor], Tensors]


def _detectron2_c4(config: Mapping[str, Any]) -> tuple[nn.Module, Stages]:
    """The backbone of a C4 detector, and its box head, which holds res5."""
    from detectron2.modeling import build_backbone, build_roi_heads

    cfg = _detectron2_config(config, STAGES[:-1])
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    model.roi_heads = build_roi_heads(cfg, model.backbone.output_shape())
    model.eval()

    def stages(image: torch.Tensor) -> Tensors:
        features = model.backbone(image)
        return features | {"res5": model.roi_heads.res5(features["res4"])}

    return model, stages


def _detectron2_fpn(config: Mapping[str, Any]) -> tuple[nn.Module, Stages]:
    """The backbone of an FPN detector; its bottom-up half is what was pretrained."""
    from detectron2.modeling import build_backbone

    cfg = _detectron2_config(config, STAGES)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = list(STAGES[1:])
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    model.eval()
    return model, model.backbone.bottom_up


def _load_all(model: nn.Module, tensors: Tensors, kind: str) -> None:
    """Load as a fine-tuning does, by Detectron2's own matching; every entry must find its place."""
    from detectron2.checkpoint import DetectionCheckpointer

    loaded = DetectionCheckpointer(model)._load_model(
        {"model": dict(tensors), "matching_heuristics": True}
    )
    counted = any(key.endswith("num_batches_tracked") for key in tensors)
    random = [
        key
        for key in loaded.missing_keys
        if key.startswith(("backbone.", "roi_heads.res5."))
        and not key.startswith("backbone.fpn_")
        and (counted or not key.endswith("num_batches_tracked"))
    ]
    failed = [*random, *loaded.unexpected_keys, *map(str, loaded.incorrect_shapes)]
    if failed:
        raise CheckpointError(
            f"{len(failed)} entries were not loaded into Detectron2's {kind} ({failed[0]}, …)"
        )
