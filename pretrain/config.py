"""Every key of pretraining, once: default (the paper's 200 epochs), unit, what it does."""

import sys

from fvcore.common.config import CfgNode

from pretrain.encoder import ARCHITECTURES
from pretrain.runtime.config import ConfigError, flatten, is_within

_C = CfgNode()
_C.OUTPUT_DIR = "runs/pretrain"  # relative paths start at the repository
_C.SEED = 0  # of weights, order and views; a view depends on (SEED, epoch, image) only
_C.DEVICE = "auto"  # auto (CUDA where there is a GPU), cuda, cpu
_C.TIMEOUT_MINUTES = 5.0  # of several processes: without an answer from the others this one ends

_C.DATA = CfgNode()
_C.DATA.ROOT = "datasets/imagenet/train"  # a folder of images, of any depth, or of tar shards
_C.DATA.NUM_WORKERS = 8  # loader processes per GPU; they do not change the numbers
_C.DATA.MAX_BAD_SHARE = 0.01  # of all images; more unreadable ones stop the run

_C.CROPS = CfgNode()  # the views; where there are three values, the last is for all local ones
_C.CROPS.GLOBAL_SIZE = 224  # px
_C.CROPS.GLOBAL_AREA = (0.2, 1.0)  # share of the image's area, from and to; 0.24 for 50 epochs
_C.CROPS.NUM_LOCALS = 6  # per image, may be 0
_C.CROPS.LOCAL_SIZE = 96  # px
_C.CROPS.LOCAL_AREA = (0.08, 0.3)  # share of the image's area
_C.CROPS.PATCH_SIZE = 0  # px; of nine patches that each local is cut into; 0: it stays whole
_C.CROPS.MIN_OVERLAP = 0.0  # share of the second global's area that also is the first's; 0: free
_C.CROPS.INTERPOLATION = "bicubic"  # or bilinear; both antialiased
_C.CROPS.SHARED_FLIP = False  # both globals are mirrored, or neither
_C.CROPS.JITTER = 0.8  # probability
_C.CROPS.JITTER_STRENGTH = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation, hue
_C.CROPS.GRAYSCALE = 0.2  # probability
_C.CROPS.BLUR = (1.0, 0.1, 0.5)  # probability; of a radius of 0.1 to 2 px
_C.CROPS.SOLARIZE = (0.0, 0.2, 0.0)  # probability

_C.METHOD = CfgNode({"NAME": "clove"}, new_allowed=True)  # its other keys: pretrain/methods
_C.ENCODER = CfgNode()
_C.ENCODER.ARCH = "resnet50"  # resnet18, 34, 50, 101, 152; Detectron2's C4 head needs 50 or more

_C.SOLVER = CfgNode()
_C.SOLVER.EPOCHS = 200
_C.SOLVER.BATCH_SIZE_PER_GPU = 256  # images per process and micro-step
_C.SOLVER.TOTAL_BATCH_SIZE = 2048  # images per optimizer step; micro-steps accumulate to it
_C.SOLVER.OPTIMIZER = "lars"  # lars: norms and biases neither decay nor adapt; sgd: all decay
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.WEIGHT_DECAY = 2e-5  # 1e-5 for 50 epochs
_C.SOLVER.TRUST_COEFFICIENT = 0.001  # of LARS
_C.SOLVER.LARS_EPS = 1e-8  # beside the gradient's norm
_C.SOLVER.BASE_LR = 1.0  # per 256 images: lr = BASE_LR * total batch / 256
_C.SOLVER.SCHEDULE_BY = "step"  # lr changes with each micro-step, or with each epoch
_C.SOLVER.WARMUP_EPOCHS = 5  # linear
_C.SOLVER.WARMUP_LR_SHARE = 0.01  # of lr, where the warm-up starts
_C.SOLVER.WARMUP_ENDPOINT = True  # the warm-up's last value is lr; False: the next one is
_C.SOLVER.END_LR_SHARE = 0.01  # of lr, where the cosine ends
_C.SOLVER.MILESTONES = ()  # epochs from which lr is a tenth, in place of warm-up and cosine
_C.SOLVER.TEACHER_MOMENTUM = 0.99  # at the run's start
_C.SOLVER.TEACHER_MOMENTUM_END = 1.0  # where a cosine takes it; the same as at the start: constant
_C.SOLVER.PRECISION = "fp32"  # fp32, bf16 or fp16 (autocast; fp16 scales gradients; loss in fp32)
_C.SOLVER.COMPILE = True  # torch.compile on GPUs; without it where it cannot be

_C.LOG = CfgNode()
_C.LOG.PERIOD = 50  # optimizer steps between two lines
_C.MONITOR = CfgNode()
_C.MONITOR.PERIOD = 200  # optimizer steps between two measurements of what was learnt; 0: none
_C.MONITOR.IMAGES = 64  # whose views, which training never sees, are measured on
_C.MONITOR.PICTURE_PERIOD = 5000  # as PERIOD, of pictures; the first and the last always
_C.MONITOR.LABELS = ""  # folder of labelled images to probe the encoder with (monitor/probes.py)
_C.CHECKPOINT = CfgNode()
_C.CHECKPOINT.PERIOD_EPOCHS = 1  # epochs between two checkpoints; the last step always has one
_C.CHECKPOINT.KEEP = 3  # newest checkpoints kept

_C.SLURM = CfgNode()  # of --slurm
_C.SLURM.PARTITION = ""  # the cluster's default
_C.SLURM.NODES = 1
_C.SLURM.PROCESSES = 8  # per node, with a GPU each, unless DEVICE is cpu
_C.SLURM.HOURS = 24.0  # of one job; at its end it saves, is queued again and goes on
_C.SLURM.OPTIONS = ""  # others of sbatch: "account=x qos=y"

# Keys that may differ between a run and its resumption: they do not change the numbers
NOT_HASHED = (
    *("OUTPUT_DIR", "DEVICE", "TIMEOUT_MINUTES", "DATA.NUM_WORKERS", "SOLVER.COMPILE"),
    *("LOG", "MONITOR", "CHECKPOINT", "SLURM"),
)


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults."""
    return _C.clone()


# The least value of a whole number; of others it is 1
LEAST = {
    "SEED": 0,
    "DATA.NUM_WORKERS": 0,
    "CROPS.NUM_LOCALS": 0,
    "CROPS.PATCH_SIZE": 0,
    "SOLVER.WARMUP_EPOCHS": 0,
    "MONITOR.PERIOD": 0,
    "MONITOR.IMAGES": 2,  # cells of different images are compared
}
CHOICES = {
    "CROPS.INTERPOLATION": ("bicubic", "bilinear"),
    "ENCODER.ARCH": ARCHITECTURES,
    "SOLVER.OPTIMIZER": ("lars", "sgd"),
    "SOLVER.SCHEDULE_BY": ("step", "epoch"),
    "SOLVER.PRECISION": ("fp32", "bf16", "fp16"),
}
# Keys and sections whose fractions lie within 0 and 1; all others are at least 0
SHARES = (
    *("DATA.MAX_BAD_SHARE", "CROPS", "SOLVER.MOMENTUM", "SOLVER.WARMUP_LR_SHARE"),
    *("SOLVER.END_LR_SHARE", "SOLVER.TEACHER_MOMENTUM", "SOLVER.TEACHER_MOMENTUM_END"),
)


def check(cfg: CfgNode) -> None:
    """Raise ConfigError for values that would fail late or silently."""
    values = flatten(cfg)
    for key, default in flatten(_C).items():
        value = values.get(key)
        kinds = int | float if type(default) is float else type(default)
        if not isinstance(value, kinds) or (type(value) is bool) > (type(default) is bool):
            raise ConfigError(f"{key} {value!r} is not of type {type(default).__name__}")
        if type(default) is int and value >= 2**31:
            raise ConfigError(f"{key} {value} is not below {2**31}")
        if type(default) is int and value < LEAST.get(key, 1):
            raise ConfigError(f"{key} {value} is under {LEAST.get(key, 1)}")
        if key in CHOICES and value not in CHOICES[key]:
            raise ConfigError(f"{key} {value!r} is not one of {', '.join(CHOICES[key])}")
        if type(default) in (float, tuple):
            found, known = (v if isinstance(v, tuple) else (v,) for v in (value, default))
            if known and len(found) != len(known):
                raise ConfigError(f"{key} {value} has {len(found)} values, not {len(known)}")
            top = 1 if is_within(key, SHARES) else sys.float_info.max
            if not all(type(v) in (int, float) and 0 <= v <= top for v in found):
                raise ConfigError(f"{key} {value} is not within 0 and {top:g}")
    for key in ("CROPS.GLOBAL_AREA", "CROPS.LOCAL_AREA"):
        if not 0 < values[key][0] <= values[key][1]:
            raise ConfigError(f"{key} {values[key]} is not a range (from, to) above 0")
    if 3 * cfg.CROPS.PATCH_SIZE > cfg.CROPS.LOCAL_SIZE:
        raise ConfigError(
            f"CROPS.PATCH_SIZE {cfg.CROPS.PATCH_SIZE} exceeds a third of CROPS.LOCAL_SIZE "
            f"{cfg.CROPS.LOCAL_SIZE}"
        )
    if cfg.SOLVER.WARMUP_EPOCHS > cfg.SOLVER.EPOCHS:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS} exceeds SOLVER.EPOCHS "
            f"{cfg.SOLVER.EPOCHS}"
        )
