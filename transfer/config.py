"""The config of a fine-tuning: Detectron2's keys and our own, below TRANSFER."""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from pretrain.encoder import WITHOUT_BOTTLENECKS
from pretrain.runtime.config import (
    ConfigError,
    config_hash,
    flatten,
    is_within,
    merge,
    pairs,
    plain,
)
from transfer.densepose.config import add_densepose_config, check_densepose_config

# Said by command line flags, so that there is one way to say them.
FLAGS = {"OUTPUT_DIR": "--output", "MODEL.WEIGHTS": "--weights", "SEED": "--seed"}

AMP_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

# What does not make another experiment; weights, data and seed are recorded beside the hash.
NOT_HASHED = (
    *FLAGS,
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "VIS_PERIOD",
    "VERSION",
    "TRANSFER.DATASETS",
    "TRANSFER.METRICS",
    "TRANSFER.SURFACE",
)

CHOICES = {
    "MODEL.RESNETS.DEPTH": (18, 34, 50, 101, 152),
    "SOLVER.LR_SCHEDULER_NAME": (
        "WarmupMultiStepLR",
        "WarmupCosineLR",
        "WarmupStepWithFixedGammaLR",
    ),
}

# Keys of newer builds of Detectron2 with their defaults, at which they change nothing
NEWER_KEYS = {"FLOAT32_PRECISION": ""}


def default_config() -> CfgNode:
    """Detectron2's defaults, DensePose's with the branch off, and ours."""
    cfg = get_cfg()
    add_densepose_config(cfg)
    cfg.MODEL.DENSEPOSE_ON = False
    cfg.TRANSFER = CfgNode()
    # Multiplies MODEL.ANCHOR_GENERATOR.SIZES once, when the config is resolved (1 afterwards).
    cfg.TRANSFER.ANCHOR_SCALE = 1.0
    # Data sets of one's own in COCO's format, NAME: {JSON: file, IMAGES: folder}; the paths are
    # absolute or below DETECTRON2_DATASETS. DATASETS.TRAIN and DATASETS.TEST use the names.
    cfg.TRANSFER.DATASETS = CfgNode(new_allowed=True)
    # What a config of one's own reports, as "bbox/AP50"; the first ranks. Empty: everything.
    cfg.TRANSFER.METRICS = ()
    # What SOLVER.AMP.ENABLED computes in, one of AMP_DTYPES: on GPUs in training, as in Detectron2;
    # on a CPU, where only bf16 works, in evaluation, too.
    cfg.TRANSFER.AMP_DTYPE = "fp16"
    # How many training batches the BN of a trunk frozen by MODEL.BACKBONE.FREEZE_AT takes its
    # statistics from, before training. 0: it keeps those of the weights.
    cfg.TRANSFER.FROZEN_BN_BATCHES = 0
    # Folder of the surface files that DensePose is evaluated with (DATA.md), absolute or below
    # DETECTRON2_DATASETS. Empty: `densepose` there.
    cfg.TRANSFER.SURFACE = ""
    return cfg


def resolve(
    config: str | Path, overlay: str | Path | None = None, overrides: Sequence[str] = ()
) -> CfgNode:
    """Defaults, then ``config``, then ``overlay``, then ``KEY VALUE`` pairs; not frozen.

    Raises ConfigError for unknown keys, bad values and keys that have a flag of their own.
    """
    for key, _ in pairs(overrides):
        if key in FLAGS:
            raise ConfigError(f"command line: {key} is set by {FLAGS[key]}")
    cfg = default_config()
    merge(cfg, config)
    if overlay is not None:
        merge(cfg, overlay)
    merge(cfg, overrides=overrides)
    _check_types(cfg, config)
    scale, sizes = cfg.TRANSFER.ANCHOR_SCALE, cfg.MODEL.ANCHOR_GENERATOR.SIZES
    if scale != 1.0:
        sizes = sizes if isinstance(sizes[0], list | tuple) else [sizes]  # as Detectron2 reads it
        cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size * scale for size in level] for level in sizes]
        cfg.TRANSFER.ANCHOR_SCALE = 1.0
    if not cfg.DATASETS.TRAIN:
        raise ConfigError(f"{config}: DATASETS.TRAIN names no data set")
    if len(cfg.DATASETS.TEST) != 1:
        raise ConfigError(f"{config}: DATASETS.TEST must name one data set")
    if cfg.TRANSFER.AMP_DTYPE not in AMP_DTYPES:
        dtype, known = cfg.TRANSFER.AMP_DTYPE, ", ".join(AMP_DTYPES)
        raise ConfigError(f"{config}: TRANSFER.AMP_DTYPE {dtype!r} is none of {known}")
    _check_values(cfg, config)
    depth, channels = cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS
    check_head(cfg, depth)
    if depth in WITHOUT_BOTTLENECKS and channels != 64:
        raise ConfigError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS {channels}: a ResNet-{depth} has 64. "
            "Add: MODEL.RESNETS.RES2_OUT_CHANNELS 64"
        )
    _check_steps(cfg, config)
    check_densepose_config(cfg)
    return cfg


def check_head(cfg: CfgNode, depth: int) -> None:
    """ConfigError where the config's head cannot follow a ResNet of ``depth`` layers."""
    head = cfg.MODEL.ROI_HEADS.NAME
    if depth in WITHOUT_BOTTLENECKS and head.startswith("Res5ROIHeads"):
        raise ConfigError(
            f"MODEL.ROI_HEADS.NAME {head}: a C4 head is made of bottlenecks, and a ResNet-{depth} "
            "has none. Take a task on FPN, such as coco_fpn, or a ResNet-50"
        )


def config_sha256(cfg: CfgNode) -> str:
    """The hash that is the same for every run of one experiment, on every build of Detectron2."""
    return config_hash(_hashed(cfg), ())


def differences(cfg: CfgNode, other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """``{key: (value in cfg, value in other)}`` for the hashed keys on which the two disagree.

    other: a nested mapping, as in a ``config.yaml``; a key that one side lacks is None there.
    """
    ours, theirs = _hashed(cfg), _hashed(other)
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }


def _hashed(cfg: dict[str, Any]) -> dict[str, Any]:
    """What makes an experiment, by dotted key."""
    return {
        key: value
        for key, value in plain(flatten(cfg)).items()
        if (not is_within(key, NOT_HASHED) or key.endswith(".FLIP_MAP"))
        and value != NEWER_KEYS.get(key, NEWER_KEYS)
    }


def images_per_bn_batch(cfg: CfgNode, processes: int) -> int:
    """How many images share a BN's statistics; 0 where the backbone's norm uses no batch."""
    norm = cfg.MODEL.RESNETS.NORM
    if "BN" not in norm or norm == "FrozenBN":
        return 0
    return cfg.SOLVER.IMS_PER_BATCH // (1 if "SyncBN" in norm else processes)


def _check_types(cfg: CfgNode, config: str | Path) -> None:
    """Of what is in lists, and that nothing is empty; other types are looked at when merged."""
    forms = {key: [""] for key in ("DATASETS.TRAIN", "DATASETS.TEST", "TRANSFER.METRICS")}
    forms["TEST.KEYPOINT_OKS_SIGMAS"] = [0.0]
    values = flatten(cfg)
    for key, default in flatten(default_config()).items():
        value, form = values.get(key), next(_leaves(forms.get(key, default)), None)
        if value is None and form is not None and not isinstance(form, dict):
            raise ConfigError(f"{config}: {key} is empty, not {default!r} or another value")
        if isinstance(value, list | tuple) and form is not None:
            inside = value if key in forms else _leaves(value)
            kind, said = (str, "text") if isinstance(form, str) else (int | float, "numbers")
            if not all(isinstance(one, kind) for one in inside):
                raise ConfigError(f"{config}: {key} {value}: expected {said} in it")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _check_values(cfg: CfgNode, config: str | Path) -> None:
    """What would end in a traceback, or never end, is one line."""
    solver = cfg.SOLVER
    for key in ("IMS_PER_BATCH", "MAX_ITER", "CHECKPOINT_PERIOD", "BASE_LR"):
        if not 0 < solver[key] < math.inf:
            raise ConfigError(f"{config}: SOLVER.{key} {solver[key]}: must be above 0, and finite")
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise ConfigError(
            f"{config}: DATALOADER.NUM_WORKERS {cfg.DATALOADER.NUM_WORKERS} is below 0"
        )
    values = flatten(cfg)
    for key, known in CHOICES.items():
        if (value := values[key]) not in known:
            raise ConfigError(f"{config}: {key} {value!r} is none of {', '.join(map(str, known))}")
    try:
        torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        device = cfg.MODEL.DEVICE
        raise ConfigError(f"{config}: MODEL.DEVICE {device!r} is neither cpu nor cuda") from error
    if not cfg.INPUT.MIN_SIZE_TRAIN:
        raise ConfigError(f"{config}: INPUT.MIN_SIZE_TRAIN is empty: name a size, such as (800,)")
    batch, world = solver.IMS_PER_BATCH, solver.REFERENCE_WORLD_SIZE
    if world < 0 or (world and batch % world):
        raise ConfigError(
            f"{config}: SOLVER.IMS_PER_BATCH {batch} is no multiple of SOLVER.REFERENCE_WORLD_SIZE "
            f"{world}, the number of GPUs that it is meant for"
        )


def _check_steps(cfg: CfgNode, config: str | Path) -> None:
    """Detectron2 leaves out steps above MAX_ITER, with a warning; fvcore has no use for others."""
    if cfg.SOLVER.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        return
    last = cfg.SOLVER.MAX_ITER
    steps = [0, *(step for step in cfg.SOLVER.STEPS if step <= last), last]
    if any(one >= next_one for one, next_one in itertools.pairwise(steps)):
        raise ConfigError(
            f"{config}: SOLVER.STEPS {cfg.SOLVER.STEPS} with SOLVER.MAX_ITER {last}: expected "
            'ascending iterations between 0 and it, or "()" for a rate that never falls'
        )
