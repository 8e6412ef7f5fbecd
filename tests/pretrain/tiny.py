"""A pretraining of seconds: noise images and a small model."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from pretrain.config import get_cfg
from pretrain.methods.clove import CLoVE
from pretrain.runtime import checkpoints
from pretrain.runtime.config import merge
from pretrain.runtime.interrupt import EXIT_CODE

CONFIG = "configs/pretrain/clove_R_50_in1k_200ep.yaml"
SAME = "nothing: the resumed run ends with the weights of an undisturbed one, bit for bit"
OVERRIDES = {
    "DEVICE": "cpu",
    "DATA.NUM_WORKERS": 0,
    "CROPS.GLOBAL_SIZE": 96,
    "CROPS.NUM_LOCALS": 1,
    "CROPS.LOCAL_SIZE": 32,
    "ENCODER.ARCH": "resnet18",
    "METHOD.HIDDEN": 16,
    "METHOD.DIM": 8,
    "METHOD.HEADS": 2,
    "METHOD.NUM_NEGATIVES": 1,
    "SOLVER.EPOCHS": 3,
    "SOLVER.BATCH_SIZE_PER_GPU": 2,
    "SOLVER.TOTAL_BATCH_SIZE": 4,
    "SOLVER.BASE_LR": 20.0,
    "SOLVER.WARMUP_EPOCHS": 1,
    "SOLVER.PRECISION": "fp32",
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


def torchrun(processes: int, *options: str) -> list[str]:
    """Words between ``python`` and ``-m pretrain``."""
    return [
        *("-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"),
        *options,
    ]


def start(
    arguments: list[str], launcher: Sequence[str] = (), config: str = CONFIG, **environment: str
):
    """``python -m pretrain`` as a process of its own group, on one core."""
    command = [sys.executable, *launcher, "-m", "pretrain", "--config-file", config, *arguments]
    return subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def finish(process: subprocess.Popen, seconds: float = 180) -> str:
    """What a process that must succeed said on standard error."""
    _, error = process.communicate(timeout=seconds)
    assert process.returncode == 0, error
    return error


def interrupt(process: subprocess.Popen, number: signal.Signals) -> str:
    """Signal its whole group; it must save and say so with its exit code. Its standard error."""
    os.killpg(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == EXIT_CODE, error
    assert "interrupted: the same command with --resume goes on" in error
    return error


def wait_until(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 90):
    """Return once the condition holds; an error when the process ends or the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_equal_states(first: Path, second: Path) -> None:
    """Two checkpoints have the same position, weights, BN statistics and momentum."""
    a, b = checkpoints.load(first), checkpoints.load(second)
    for key in ("step", "micro_step", "epoch", "images_seen"):
        assert a[key] == b[key]
    assert a["model"].keys() == b["model"].keys()
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    for left, right in zip(
        a["optimizer"]["state"].values(), b["optimizer"]["state"].values(), strict=True
    ):
        assert torch.equal(left["momentum_buffer"], right["momentum_buffer"])


def last_checkpoint(run: Path) -> Path:
    """The newest file of a run."""
    return checkpoints.list_checkpoints(run)[-1]


def poison(patch: pytest.MonkeyPatch, *micro_steps: int) -> None:
    """Let the global crops of these micro-steps, counted from now, be NaN."""
    forward, count = CLoVE.forward, itertools.count()

    def poisoned(self, global_crops, *rest):
        broken = self.training and next(count) in micro_steps
        return forward(self, global_crops * torch.nan if broken else global_crops, *rest)

    patch.setattr(CLoVE, "forward", poisoned)
