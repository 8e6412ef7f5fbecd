"""Every key of pretraining, once: default (the paper's 200 epochs), unit, what it does."""

from fvcore.common.config import CfgNode

from pretrain.encoder import ARCHITECTURES
from pretrain.runtime.config import ConfigError, flatten

_C = CfgNode()
_C.OUTPUT_DIR = "runs/pretrain"  # relative paths start at the repository
_C.SEED = 0  # of weights, order and views; a view depends on (SEED, epoch, image) only
_C.DEVICE = "auto"  # auto (CUDA where there is a GPU), cuda, cpu
_C.TIMEOUT_MINUTES = 5.0  # of several processes: without an answer from the others this one ends

_C.DATA = CfgNode()
_C.DATA.ROOT = "datasets/imagenet/train"  # a folder of images, of any depth, or of tar shards
_C.DATA.NUM_WORKERS = 8  # loader processes per GPU; they do not change the numbers
_C.DATA.MAX_BAD_SHARE = 0.01  # of all images; more unreadable ones stop the run

_C.CROPS = CfgNode()
_C.CROPS.GLOBAL_SIZE = 224  # px
_C.CROPS.GLOBAL_AREA = (0.2, 1.0)  # share of the image's area, from and to; 0.24 for 50 epochs
_C.CROPS.NUM_LOCALS = 6  # per image, may be 0
_C.CROPS.LOCAL_SIZE = 96  # px
_C.CROPS.LOCAL_AREA = (0.08, 0.3)  # share of the image's area

_C.METHOD = CfgNode({"NAME": "clove"}, new_allowed=True)  # its other keys: pretrain/methods
_C.ENCODER = CfgNode()
_C.ENCODER.ARCH = "resnet50"  # resnet18, 34, 50, 101, 152; Detectron2's C4 head needs 50 or more

_C.SOLVER = CfgNode()
_C.SOLVER.EPOCHS = 200
_C.SOLVER.BATCH_SIZE_PER_GPU = 256  # images per process and micro-step
_C.SOLVER.TOTAL_BATCH_SIZE = 2048  # images per optimizer step; micro-steps accumulate to it
_C.SOLVER.BASE_LR = 1.0  # per 256 images: lr = BASE_LR * total batch / 256
_C.SOLVER.WARMUP_EPOCHS = 5  # linear, from lr / WARMUP_DIVISOR
_C.SOLVER.WARMUP_DIVISOR = 100.0
_C.SOLVER.END_LR_SHARE = 0.01  # of lr, where the cosine ends
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.WEIGHT_DECAY = 2e-5  # 1e-5 for 50 epochs; none on norms and biases
_C.SOLVER.TRUST_COEFFICIENT = 0.001  # LARS
_C.SOLVER.TEACHER_MOMENTUM = 0.99  # at the start; a cosine takes it to 1
_C.SOLVER.PRECISION = "fp32"  # fp32, bf16 or fp16 (autocast; fp16 scales gradients; loss in fp32)
_C.SOLVER.COMPILE = False  # torch.compile of the two networks; without it where it cannot be

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
    "OUTPUT_DIR",
    "DEVICE",
    "TIMEOUT_MINUTES",
    "DATA.NUM_WORKERS",
    "LOG",
    "MONITOR",
    "CHECKPOINT",
    "SLURM",
)


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults."""
    return _C.clone()


PRECISIONS = ("fp32", "bf16", "fp16")
AT_LEAST_ONE = (
    "CROPS.GLOBAL_SIZE",
    "CROPS.LOCAL_SIZE",
    "SOLVER.EPOCHS",
    "SOLVER.BATCH_SIZE_PER_GPU",
    "SOLVER.TOTAL_BATCH_SIZE",
    "LOG.PERIOD",
    "CHECKPOINT.PERIOD_EPOCHS",
    "CHECKPOINT.KEEP",
    "SLURM.NODES",
    "SLURM.PROCESSES",
)


def check(cfg: CfgNode) -> None:
    """Raise ConfigError for values that would fail late or silently."""
    values = flatten(cfg)
    for key in AT_LEAST_ONE:
        if values[key] < 1:
            raise ConfigError(f"{key} {values[key]} is under 1")
    for key in ("CROPS.GLOBAL_AREA", "CROPS.LOCAL_AREA"):
        if len(values[key]) != 2 or not 0 < values[key][0] <= values[key][1] <= 1:
            raise ConfigError(f"{key} {values[key]} is not a range (from, to) within 0 and 1")
    if cfg.MONITOR.IMAGES < 2:
        raise ConfigError(
            f"MONITOR.IMAGES {cfg.MONITOR.IMAGES}: cells of different images are compared, so 2 or "
            "more"
        )
    if cfg.MONITOR.LABELS and not cfg.MONITOR.PERIOD:
        raise ConfigError("MONITOR.LABELS is set but MONITOR.PERIOD 0 measures nothing; set both")
    if cfg.CROPS.NUM_LOCALS < 0:
        raise ConfigError(f"CROPS.NUM_LOCALS {cfg.CROPS.NUM_LOCALS} is negative")
    if cfg.ENCODER.ARCH not in ARCHITECTURES:
        raise ConfigError(
            f"ENCODER.ARCH {cfg.ENCODER.ARCH!r} is not one of {', '.join(ARCHITECTURES)}"
        )
    if cfg.SOLVER.PRECISION not in PRECISIONS:
        raise ConfigError(
            f"SOLVER.PRECISION {cfg.SOLVER.PRECISION!r} is not one of {', '.join(PRECISIONS)}"
        )
    if cfg.SOLVER.WARMUP_EPOCHS > cfg.SOLVER.EPOCHS:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS} exceeds SOLVER.EPOCHS "
            f"{cfg.SOLVER.EPOCHS}"
        )
