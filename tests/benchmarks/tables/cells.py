"""Writes cells as ``python -m transfer`` would leave them."""

import json
from pathlib import Path
from typing import Any

from benchmarks.tables.published import load_published

TASKS = load_published()
VALUES = {
    "bbox/AP": 12.5,
    "bbox/AP50": 25.0,
    "bbox/AP75": 10.0,
    "segm/AP": 11.0,
    "segm/AP50": 22.0,
    "segm/AP75": 9.0,
}
SCENES = {"name": "scenes", "train_images": 200, "test_images": 100, "sha256": "5ce7e5" * 10}
OFFICIAL = {
    "name": "official",
    "train_images": 118287,
    "test_images": 5000,
    "sha256": "0ff1c1a1" * 8,
}


def metrics_json(
    init: str = "random", task: str = "coco_fpn", seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """The content of one cell's metrics.json, with ``changes`` to its fields.

    On OFFICIAL data it was run under its task's own config, as far as nothing else is said.
    """
    config = {"config_sha256": "c0ffee" * 10, "iterations": 80, "images_per_batch": 4}
    if changes.get("data") == OFFICIAL and task in TASKS:
        own = TASKS[task]
        config = {"config_sha256": own.config_sha256, **own.schedule}
    return {
        "format": 1,
        "task": task,
        "init": init,
        "method": "random",
        "pretrain_epochs": None,
        "depth": 50,
        "seed": seed,
        "main_metric": "bbox/AP",
        "metrics": dict(VALUES),
        "data": dict(SCENES),
        "weights_sha256": None,
        **config,
        "images_per_bn_batch": 4,
        "seconds": 61.5,
        "hardware": "CPU, 2 cores",
        "git_commit": "deadbeef",
        "packages": {},
    } | changes


def write_cell(
    results: Path, init: str = "random", task: str = "coco_fpn", seed: int = 0, **changes: Any
) -> Path:
    """Write it to its place below ``results``."""
    path = results / init / task / f"seed{seed}" / "metrics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(metrics_json(init, task, seed, **changes)))
    return path


def write_clove(results: Path, seed: int = 0, **changes: Any) -> Path:
    """A cell of the init ``clove``, pretrained for 400 epochs."""
    clove = {"method": "clove", "pretrain_epochs": 400, "weights_sha256": "ab" * 32}
    return write_cell(results, "clove", seed=seed, **(clove | changes))
