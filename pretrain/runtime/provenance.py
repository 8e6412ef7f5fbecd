"""Where a result comes from: commit, packages, hardware."""

import functools
import os
import platform
import subprocess
from importlib import metadata
from typing import Any

from pretrain.runtime.config import REPOSITORY

PACKAGES = (
    "torch",
    "torchvision",
    "sal-detectron2",
    "detectron2",
    "numpy",
    "pillow",
    "fvcore",
    "pycocotools",
    "faster-coco-eval",
    "lvis",
    "cityscapesScripts",
)


@functools.cache
def git_commit() -> str:
    """The repository's commit, with ``+changes`` when the tree differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """``1 x NVIDIA H100``, ``CPU, 8 cores`` or ``CPU without bf16, 8 cores``."""
    import torch  # for most that ask where a result comes from, too slow to start with

    from pretrain.runtime.distributed import cpu_has_bf16

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU{'' if cpu_has_bf16() else ' without bf16'}, {os.cpu_count()} cores"


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def provenance() -> dict[str, Any]:
    """Everything of this module, ready for JSON."""
    return {"git_commit": git_commit(), "hardware": hardware(), "packages": packages()}
