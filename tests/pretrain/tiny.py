"""A pretraining of seconds: noise images and a small model."""

from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.config import get_cfg
from pretrain.runtime.config import merge

OVERRIDES = {
    "DEVICE": "cpu",
    "DATA.NUM_WORKERS": 0,
    "CROPS.GLOBAL_SIZE": 96,
    "CROPS.NUM_LOCALS": 1,
    "CROPS.LOCAL_SIZE": 32,
    "MODEL.ARCH": "resnet18",
    "MODEL.HIDDEN": 16,
    "MODEL.DIM": 8,
    "MODEL.HEADS": 2,
    "LOSS.NUM_NEGATIVES": 1,
    "SOLVER.EPOCHS": 3,
    "SOLVER.BATCH_SIZE_PER_GPU": 2,
    "SOLVER.TOTAL_BATCH_SIZE": 4,
    "SOLVER.BASE_LR": 20.0,
    "SOLVER.WARMUP_EPOCHS": 1,
    "LOG.PERIOD": 1,
    "MONITOR.PERIOD": 0,
}


def write_images(folder: Path, count: int = 7) -> Path:
    """Noise images of 40x30 px, some of them in a subfolder."""
    rng = np.random.default_rng(0)
    for n in range(count):
        path = folder / ("nested" if n % 2 else "") / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return folder


def words(images: Path, output: Path, **changes: object) -> list[str]:
    """``KEY VALUE`` words of the tiny run; ``__`` in a change's name stands for a dot."""
    values = OVERRIDES | {"DATA.ROOT": images, "OUTPUT_DIR": output}
    values |= {key.replace("__", "."): value for key, value in changes.items()}
    return [str(word) for pair in values.items() for word in pair]


def config(images: Path, output: Path, **changes: object) -> CfgNode:
    """The tiny run's config."""
    cfg = get_cfg()
    merge(cfg, None, words(images, output, **changes))
    return cfg
