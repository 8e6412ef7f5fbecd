"""DensePose's config keys, with upstream's names and defaults (its densepose/config.py)."""

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
    _require(cfg, "MODEL.META_ARCHITECTURE", "GeneralizedRCNN")
    _require(cfg, "MODEL.ROI_HEADS.NAME", "DensePoseROIHeads")
    _require(cfg, "MODEL.ROI_HEADS.NUM_CLASSES", 1)
    _require(cfg, f"{name}.NAME", "DensePoseV1ConvXHead")
    _require(cfg, f"{name}.PREDICTOR_NAME", *PREDICTORS)
    _require(cfg, f"{name}.LOSS_NAME", *LOSSES)
    _require(cfg, f"{name}.NUM_PATCHES", CHARTS)
    _require(cfg, f"{name}.NUM_COARSE_SEGM_CHANNELS", 2, 15)
    heatmap = head.POOLER_RESOLUTION * 2 * head.UP_SCALE
    _require(cfg, f"{name}.HEATMAP_SIZE", heatmap, why="it is POOLER_RESOLUTION * 2 * UP_SCALE")
    _require(cfg, f"{name}.COARSE_SEGM_TRAINED_BY_MASKS", False)
    for key in ("UV_CONFIDENCE.ENABLED", "SEGM_CONFIDENCE.ENABLED"):
        _require(cfg, f"{name}.{key}", False, why="confidence models are not supported")
    if head.DECODER_ON:
        width = cfg.MODEL.FPN.OUT_CHANNELS
        _require(cfg, f"{name}.DECODER_NUM_CLASSES", width, why="it is MODEL.FPN.OUT_CHANNELS")
        _require(cfg, f"{name}.DECODER_COMMON_STRIDE", 4)
    _require(cfg, "TEST.AUG.ROTATION_ANGLES", ())
    _require(cfg, "DENSEPOSE_EVALUATION.TYPE", "iou")
    _require(cfg, "DENSEPOSE_EVALUATION.STORAGE", "none")
    _require(cfg, "DENSEPOSE_EVALUATION.DISTRIBUTED_INFERENCE", True)
    _require(cfg, "DENSEPOSE_EVALUATION.EVALUATE_MESH_ALIGNMENT", False)
    for key in ("CATEGORY_MAPS", "WHITELISTED_CATEGORIES", "CLASS_TO_MESH_NAME_MAPPING"):
        _require(cfg, f"DATASETS.{key}", {})
    check_augmentations(cfg)
    minimum = cfg.DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD
    if not 0 <= minimum <= 0.5:
        raise ConfigError(
            f"DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD is {minimum}: thresholds go from it to 0.95, "
            "with 0.5 among them. Add: DENSEPOSE_EVALUATION.MIN_IOU_THRESHOLD 0.5"
        )


def check_augmentations(cfg: CfgNode) -> None:
    """ConfigError, with the pair to add, for what DensePose annotations cannot follow."""
    if cfg.INPUT.RANDOM_FLIP != "none":
        _require(cfg, "INPUT.RANDOM_FLIP", "horizontal", why="DensePose is only mirrored sideways")
    _require(cfg, "INPUT.ROTATION_ANGLES", [0], why="DensePose annotations are not rotated")
    _require(cfg, "INPUT.CROP.ENABLED", False, why="DensePose annotations belong to whole boxes")


def _require(
    cfg: CfgNode,
    key: str,
    *allowed: Any,
    why: str = "nothing else is supported with MODEL.DENSEPOSE_ON",
) -> None:
    value = cfg
    for part in key.split("."):
        value = value[part]
    if value not in allowed:
        choices = " or ".join(f"{key} {choice}" for choice in allowed)
        raise ConfigError(f"{key} is {value!r}: {why}. Add: {choices}")
