"""A run that is killed without warning, again and again."""

import json
import os
import random
import subprocess
import sys

import pytest
import torch

from pretrain.runtime.config import REPOSITORY
from tests.transfer.tiny import FAST, SCENES, write_coco

KILLS = 6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_random_moments_ends_as_an_uninterrupted_one(tmp_path):
    root = write_coco(tmp_path / "data")
    words = ["--task", "coco_fpn", "--weights", "random", "--overlay", SCENES, "--resume", *FAST]
    words += ["SOLVER.MAX_ITER", "60", "SOLVER.CHECKPOINT_PERIOD", "2"]
    environment = os.environ | {"DETECTRON2_DATASETS": str(root), "OMP_NUM_THREADS": "1"}

    def start(name):
        return subprocess.Popen(
            [sys.executable, "-m", "transfer", "--output", str(tmp_path / name), *words],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start("straight").wait() == 0
    moments, kills = random.Random(0), 0
    for _ in range(KILLS):
        process = start("killed")
        try:
            process.wait(timeout=moments.uniform(6, 14))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += process.wait() == -9
    assert kills > 0
    assert start("killed").wait() == 0

    straight, killed = (tmp_path / name for name in ("straight", "killed"))
    models = [torch.load(path / "model_final.pth")["model"] for path in (straight, killed)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    metrics = [json.loads((p / "metrics.json").read_text())["metrics"] for p in (straight, killed)]
    assert metrics[0] == metrics[1]
    print(f"{kills} of {KILLS} starts were killed")
