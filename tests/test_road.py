"""The whole road at its smallest: from images to a row in RESULTS.md, by the README's commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*words: object) -> str:
    command = [sys.executable, "-m", *map(str, words)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.timeout(480)
def test_images_become_a_row_in_the_results(tmp_path):
    scenes, results = tmp_path / "scenes", tmp_path / "results"
    run("benchmarks.scenes", scenes, "--images", 8, "--train", 24, "--val", 4, "--size", 96)
    pretraining = (
        f"DATA.ROOT {scenes}/coco/unlabeled2017 OUTPUT_DIR {tmp_path}/pretrain DATA.NUM_WORKERS 0 "
        "CROPS.GLOBAL_SIZE 96 CROPS.NUM_LOCALS 1 CROPS.LOCAL_SIZE 32 METHOD.NUM_NEGATIVES 1 "
        "SOLVER.EPOCHS 1 "
        "SOLVER.BATCH_SIZE_PER_GPU 4 SOLVER.TOTAL_BATCH_SIZE 4"
    )
    run("pretrain", "--config-file", "configs/pretrain/demo.yaml", *pretraining.split())
    (tmp_path / "matrix.yaml").write_text(
        json.dumps(
            {
                "datasets": str(scenes),
                "overlay": "configs/transfer/Base-scenes.yaml",
                "inits": {"ours": {"method": "clove", "checkpoint": str(tmp_path / "pretrain")}},
                "tasks": ["coco_fpn"],
                "seeds": [0],
                "overrides": {
                    "SOLVER.MAX_ITER": 2,
                    "SOLVER.STEPS": "(1,)",
                    "TEST.PRECISE_BN.NUM_ITER": 1,
                },
            }
        )
    )
    matrix = ("benchmarks", "run", "--config-file", tmp_path / "matrix.yaml", "--output", results)
    run(*matrix)
    metrics = json.loads((results / "ours" / "coco_fpn" / "seed0" / "metrics.json").read_text())
    assert metrics["method"] == "clove"
    assert metrics["pretrain_epochs"] == 1
    assert metrics["data"]["name"] == "scenes"
    assert "1 of 1 cells are done" in run(*matrix)
    table = run("benchmarks", "collect", results)
    assert "| ours" in table
    assert "on scenes, not the official data" in table
