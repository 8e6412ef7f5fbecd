"""Minutes rather than seconds: does pretraining learn, and does everything fit a laptop?"""

import math
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretrain.run
import pretrain.train
from benchmarks.scenes.generate import Request, generate
from pretrain.augment import MultiCrop, boxes_of
from pretrain.config import get_cfg
from pretrain.data.multicrop import collate, decode
from pretrain.methods import complete
from pretrain.photometry import normalize
from pretrain.runtime import checkpoints
from pretrain.runtime.config import merge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[1]
LIMIT = 6 * 2**30  # bytes of memory that the demo's stages stay under


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "scenes"
    generate(folder, Request(unlabelled=1000, train=200, val=100), workers=2)
    return folder


def scenes_config(scenes, output, epochs):
    cfg = get_cfg()
    overrides = f"DATA.ROOT {scenes}/coco/unlabeled2017 OUTPUT_DIR {output} SOLVER.EPOCHS {epochs}"
    overrides += " SOLVER.WARMUP_EPOCHS 0"
    merge(cfg, "configs/pretrain/Base-scenes.yaml", overrides.split())
    return complete(cfg)


def on_held_out_views(model, cfg, scenes):
    """The loss's statistics on fixed views of the validation images, BN by their own batch."""
    crops = MultiCrop(cfg.CROPS)  # without local ones
    images = sorted((scenes / "coco" / "val2017").iterdir())[:48]
    samples = [
        (crops(decode(path.read_bytes()), random.Random(f"held out {n}")), [n])
        for n, path in enumerate(images)
    ]
    batch = collate(samples)
    with torch.no_grad():
        outputs = model.train()(
            normalize(batch.global_crops / 255), [], boxes_of(batch.crops, "centers")
        )
    return {name: value.item() for name, value in outputs.items()}


def learns(before, after, dim):
    """Matches stand out more than at the start, and the embedding has not collapsed."""
    gaps = [s["positive_similarity"] - s["negative_similarity"] for s in (before, after)]
    print(f"c+ - c-: {gaps[0]:.3f} -> {gaps[1]:.3f}; std {after['embedding_std']:.4f}")
    return gaps[1] - gaps[0] >= 0.05 and after["embedding_std"] >= 0.5 / math.sqrt(dim)


def pretrain_and_check(scenes, output, build=pretrain.run.build_model):
    """Whether pretraining on scenes learns; measured on an ordinary model."""
    cfg = scenes_config(scenes, output, epochs=3)
    torch.manual_seed(cfg.SEED)
    before = on_held_out_views(pretrain.run.build_model(cfg), cfg, scenes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain.run, "build_model", build)
        path = pretrain.train.train(cfg)
    model = pretrain.run.build_model(cfg)
    model.load_state_dict(checkpoints.load(path)["model"])
    return learns(before, on_held_out_views(model, cfg, scenes), cfg.METHOD.DIM)


def test_pretraining_on_scenes_learns_to_match_places(scenes, tmp_path):
    assert pretrain_and_check(scenes, tmp_path / "run")
    assert "warning: " not in (tmp_path / "run" / "log.txt").read_text()


def test_constant_teacher_target_fails_the_same_check(scenes, tmp_path):
    build = pretrain.run.build_model

    def with_constant_teacher(cfg):
        model = build(cfg)
        model.teacher.register_forward_hook(lambda module, inputs, maps: torch.ones_like(maps))
        return model

    assert not pretrain_and_check(scenes, tmp_path / "run", with_constant_teacher)
    assert "the embedding has collapsed" in (tmp_path / "run" / "log.txt").read_text()


def peak_memory(arguments, scenes):
    """Peak resident bytes of ``python`` with these arguments, which must succeed."""
    process = subprocess.Popen(
        [sys.executable, *shlex.split(arguments)],
        cwd=ROOT,
        env=os.environ | {"DETECTRON2_DATASETS": str(scenes)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def test_demo_pretraining_stays_under_six_gigabytes(scenes, tmp_path):
    used = peak_memory(
        "-m pretrain --config-file configs/pretrain/demo.yaml SOLVER.EPOCHS 1 "
        f"DATA.ROOT {scenes}/coco/val2017 OUTPUT_DIR {tmp_path}/run",
        scenes,
    )
    assert used < LIMIT, f"{used / 2**30:.1f} GB"


@pytest.mark.parametrize("task", ["coco_c4", "coco_fpn"])
def test_fine_tuning_on_scenes_stays_under_six_gigabytes(scenes, tmp_path, task):
    used = peak_memory(
        f"-m transfer --task {task} --weights random --output {tmp_path}/run "
        "--overlay configs/transfer/Base-scenes.yaml",
        scenes,
    )
    assert used < LIMIT, f"{used / 2**30:.1f} GB"
