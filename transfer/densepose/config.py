"""DensePose's config keys, with upstream's names and defaults (its densepose/config.py)."""

from functools import reduce
from typing import Any

from detectron2.config import CfgNode

from pretrain.runtime.config import ConfigError

# One implementation; with the confidence switches off, upstream's two are the same, too.
PREDICTORS = ("DensePoseChartWithConfidencePredictor", "DensePoseChartPredictor")
LOSSES = ("DensePoseChartWithConfidenceLoss", "DensePoseChartLoss")
CHARTS = 24


def add_densepose_config(cfg: CfgNode) -> None:
    """Add DensePose's keys to Detectron2's ``cfg``, switched on, as upstream does."""
    cfg.MODEL.DENSEPOSE_ON = True

    head = cfg.MODEL.ROI_DENSEPOSE_HEAD = CfgNode()
    head.NAME = ""  # "DensePoseV1ConvXHead" is the one there is
    head.NUM_STACKED_CONVS = 8
    head.CONV_HEAD_DIM = 512
    head.CONV_HEAD_KERNEL = 3
    head.NUM_PATCHES = CHARTS  # of the body's surface
    head.DECONV_KERNEL = 4
    head.UP_SCALE = 2  # after the transposed convolution, which doubles the side, too
    head.HEATMAP_SIZE = 112  # POOLER_RESOLUTION * 2 * UP_SCALE
    head.POOLER_TYPE = "ROIAlignV2"
    head.POOLER_RESOLUTION = 28
    head.POOLER_SAMPLING_RATIO = 2
    head.NUM_COARSE_SEGM_CHANNELS = 2  # or 15: background and the 14 coarse parts
    head.FG_IOU_THRESHOLD = 0.7  # proposals that train the head overlap a person by more
    head.INDEX_WEIGHTS = 5.0  # of loss_densepose_S, the coarse masks
    head.PART_WEIGHTS = 1.0  # of loss_densepose_I, the charts
    head.POINT_REGRESSION_WEIGHTS = 0.01  # of loss_densepose_U and loss_densepose_V, which are sums
    head.COARSE_SEGM_TRAINED_BY_MASKS = False  # True is not supported
    head.DECODER_ON = True  # sums the FPN levels to one map before pooling
    head.DECODER_NUM_CLASSES = 256  # its output channels: MODEL.FPN.OUT_CHANNELS
    head.DECODER_CONV_DIMS = 256
    head.DECODER_NORM = ""
    head.DECODER_COMMON_STRIDE = 4
    head.PREDICTOR_NAME = PREDICTORS[0]
    head.LOSS_NAME = LOSSES[0]
    # Known so that upstream's files can be read; confidences and DeepLab are not supported.
    head.UV_CONFIDENCE = CfgNode({"ENABLED": False, "EPSILON": 0.01, "TYPE": "iid_iso"})
    head.SEGM_CONFIDENCE = CfgNode({"ENABLED": False, "EPSILON": 0.01})
    head.DEEPLAB = CfgNode({"NORM": "GN", "NONLOCAL_ON": 0})

    cfg.INPUT.ROTATION_ANGLES = [0]  # no other value is supported
    cfg.TEST.AUG.ROTATION_ANGLES = ()

    evaluation = cfg.DENSEPOSE_EVALUATION = CfgNode()
    evaluation.TYPE = "iou"
    evaluation.STORAGE = "none"
    evaluation.MIN_IOU_THRESHOLD = 0.5  # 0.2, 0.3 or 0.4 add AP20, AP30, AP40
    evaluation.DISTRIBUTED_INFERENCE = True  # no other value is supported
    evaluation.EVALUATE_MESH_ALIGNMENT = False
    evaluation.MESH_ALIGNMENT_MESH_NAMES = []

    cfg.DATASETS.CATEGORY_MAPS = CfgNode(new_allowed=True)
    cfg.DATASETS.WHITELISTED_CATEGORIES = CfgNode(new_allowed=True)
    cfg.DATASETS.CLASS_TO_MESH_NAME_MAPPING = CfgNode(new_allowed=True)


def check_densepose_config(cfg: CfgNode) -> None:
    """ConfigError, with the pair to add, for what is out of scope or does not fit together."""
    if not cfg.MODEL.DENSEPOSE_ON:
        return
    head, name = cfg.MODEL.ROI_DENSEPOSE_HEAD, "MODEL.ROI_DENSEPOSE_HEAD"
    allowed = {
        "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
        "MODEL.ROI_HEADS.NAME": ("DensePoseROIHeads",),
        "MODEL.ROI_HEADS.NUM_CLASSES": (1,),
        f"{name}.NAME": ("DensePoseV1ConvXHead",),
        f"{name}.PREDICTOR_NAME": PREDICTORS,
        f"{name}.LOSS_NAME": LOSSES,
        f"{name}.NUM_PATCHES": (CHARTS,),
        f"{name}.NUM_COARSE_SEGM_CHANNELS": (2, 15),
        f"{name}.HEATMAP_SIZE": (head.POOLER_RESOLUTION * 2 * head.UP_SCALE,),
        f"{name}.COARSE_SEGM_TRAINED_BY_MASKS": (False,),
        f"{name}.UV_CONFIDENCE.ENABLED": (False,),
        f"{name}.SEGM_CONFIDENCE.ENABLED": (False,),
        "TEST.AUG.ROTATION_ANGLES": ((),),
        "DENSEPOSE_EVALUATION.TYPE": ("iou",),
        "DENSEPOSE_EVALUATION.STORAGE": ("none",),
        "DENSEPOSE_EVALUATION.DISTRIBUTED_INFERENCE": (True,),
        "DENSEPOSE_EVALUATION.EVALUATE_MESH_ALIGNMENT": (False,),
        "DATASETS.CATEGORY_MAPS": ({},),
        "DATASETS.WHITELISTED_CATEGORIES": ({},),
        "DATASETS.CLASS_TO_MESH_NAME_MAPPING": ({},),
    }
    if head.DECODER_ON:
        allowed[f"{name}.DECODER_NUM_CLASSES"] = (cfg.MODEL.FPN.OUT_CHANNELS,)
        allowed[f"{name}.DECODER_COMMON_STRIDE"] = (4,)
    _require(cfg, allowed)
    check_augmentations(cfg)
    minimum = cfg.DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD
    if not 0 <= minimum <= 0.5:
        raise ConfigError(f"DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD {minimum}: must be 0 to 0.5")


def check_augmentations(cfg: CfgNode) -> None:
    """ConfigError, with the pair to add, for what DensePose annotations cannot follow."""
    allowed = {"INPUT.ROTATION_ANGLES": ([0],), "INPUT.CROP.ENABLED": (False,)}
    if cfg.INPUT.RANDOM_FLIP != "none":
        allowed["INPUT.RANDOM_FLIP"] = ("horizontal",)
    _require(cfg, allowed)


def _require(cfg: CfgNode, allowed: dict[str, tuple[Any, ...]]) -> None:
    for key, choices in allowed.items():
        value = reduce(getattr, key.split("."), cfg)
        if value not in choices:
            pairs = " or ".join(f"{key} {choice}" for choice in choices)
            raise ConfigError(f"{key} is {value!r}, which DensePose does not support. Add: {pairs}")
