import json
import subprocess
import sys
from pathlib import Path

import pytest

from pretrain.runtime.config import REPOSITORY, ConfigError, flatten, plain
from transfer.config import config_sha256, default_config, differences, resolve
from transfer.tasks import TASKS

GOLDEN = Path(__file__).parents[1] / "golden"
RECIPES = json.loads((GOLDEN / "transfer_recipes.json").read_text())["recipes"]
SCENES = "configs/transfer/Base-scenes.yaml"

# What a scenes run may change: sizes, anchors, boxes, batch, schedule, PreciseBN, autocast, clips.
SCENES_KEYS = {
    "INPUT.MIN_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MIN_SIZE_TEST",
    "INPUT.MAX_SIZE_TEST",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "TEST.DETECTIONS_PER_IMAGE",
    "SOLVER.IMS_PER_BATCH",
    "SOLVER.BASE_LR",
    "SOLVER.STEPS",
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CLIP_GRADIENTS.ENABLED",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
    "TEST.PRECISE_BN.NUM_ITER",
    "SOLVER.AMP.ENABLED",
    "TRANSFER.AMP_DTYPE",
}


# A box head of 4conv1fc and norms in both heads, which protocol A and the tasks without it lack.
TWO_FC = {
    "MODEL.ROI_BOX_HEAD.NUM_CONV": None,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.NORM": None,
    "MODEL.ROI_MASK_HEAD.NORM": None,
}

# Detectron2's DensePose projects, `densepose_rcnn_R_50_FPN_s1x` of today and of 2019.
S1X = {
    **TWO_FC,
    "MODEL.MASK_ON": None,
    "MODEL.DENSEPOSE_ON": True,
    "MODEL.ROI_HEADS.NAME": "DensePoseROIHeads",
    "MODEL.ROI_HEADS.NUM_CLASSES": 1,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 2,
    "MODEL.ROI_DENSEPOSE_HEAD.NAME": "DensePoseV1ConvXHead",
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_TYPE": "ROIAlign",
    "DATASETS.TRAIN": ["densepose_coco_2014_train", "densepose_coco_2014_valminusminival"],
    "DATASETS.TEST": ["densepose_coco_2014_minival"],
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_FACTOR": 0.1,
    "SOLVER.STEPS": [100000, 120000],
    "SOLVER.MAX_ITER": 130000,
}

# A golden recipe, and what the task changes of it (None: Detectron2's default).
EXPECTED = {
    "coco_c4": ("coco_c4_1x", {}),
    "coco_c4_2x": ("coco_c4_1x", {"SOLVER.STEPS": [120000, 160000], "SOLVER.MAX_ITER": 180000}),
    "coco_fpn": ("coco_fpn_1x", {}),
    "lvis_fpn": (
        "coco_fpn_1x",
        {
            "MODEL.ROI_HEADS.NUM_CLASSES": 1203,
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0001,
            "TEST.DETECTIONS_PER_IMAGE": 300,
            "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
            "DATALOADER.REPEAT_THRESHOLD": 0.001,
            "DATASETS.TRAIN": ["lvis_v1_train"],
            "DATASETS.TEST": ["lvis_v1_val"],
        },
    ),
    "cityscapes_fpn": (
        "coco_fpn_1x",
        {
            **TWO_FC,
            "MODEL.ROI_HEADS.NUM_CLASSES": 8,
            "INPUT.MIN_SIZE_TRAIN": list(range(800, 1025, 32)),
            "INPUT.MAX_SIZE_TRAIN": 2048,
            "INPUT.MIN_SIZE_TEST": 1024,
            "INPUT.MAX_SIZE_TEST": 2048,
            "SOLVER.IMS_PER_BATCH": 8,
            "SOLVER.BASE_LR": 0.01,
            "SOLVER.STEPS": [18000],
            "SOLVER.MAX_ITER": 24000,
            "DATASETS.TRAIN": ["cityscapes_fine_instance_seg_train"],
            "DATASETS.TEST": ["cityscapes_fine_instance_seg_val"],
        },
    ),
    "keypoints_fpn": (
        "coco_fpn_1x",
        {
            **TWO_FC,
            "MODEL.MASK_ON": None,
            "MODEL.KEYPOINT_ON": True,
            "MODEL.ROI_HEADS.NUM_CLASSES": 1,
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
            "DATASETS.TRAIN": ["keypoints_coco_2017_train"],
            "DATASETS.TEST": ["keypoints_coco_2017_val"],
        },
    ),
    "densepose_fpn": ("coco_fpn_1x", S1X),
    "densepose_fpn_legacy": (
        "coco_fpn_1x",
        {
            **S1X,
            "MODEL.ROI_DENSEPOSE_HEAD.DECODER_ON": False,
            "MODEL.ROI_DENSEPOSE_HEAD.POOLER_RESOLUTION": 14,
            "MODEL.ROI_DENSEPOSE_HEAD.HEATMAP_SIZE": 56,
            "MODEL.ROI_DENSEPOSE_HEAD.NUM_COARSE_SEGM_CHANNELS": 15,
            "MODEL.ROI_DENSEPOSE_HEAD.INDEX_WEIGHTS": 2.0,
            "MODEL.ROI_DENSEPOSE_HEAD.PART_WEIGHTS": 0.3,
            "MODEL.ROI_DENSEPOSE_HEAD.POINT_REGRESSION_WEIGHTS": 0.1,
            "SOLVER.BASE_LR": 0.002,
        },
    ),
    "voc_c4": ("voc_c4_24k", {}),
}


# What the recipes leave at Detectron2's default, which must stay what it was.
DEFAULTS = {
    "TEST.EVAL_PERIOD": 0,
    "TEST.PRECISE_BN.NUM_ITER": 200,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "SOLVER.AMP.ENABLED": False,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
}


@pytest.mark.parametrize("name", TASKS)
def test_config_is_the_recipe_and_nothing_more(name):
    recipe, changes = RECIPES[EXPECTED[name][0]], EXPECTED[name][1]
    expected = {key: entry["value"] for key, entry in recipe["non_default"].items()}
    assert expected.pop("MODEL.WEIGHTS") == "See Instructions"
    expected = {key: value for key, value in (expected | changes).items() if value is not None}
    cfg = resolve(TASKS[name].config)
    changed = {key: ours for key, (ours, _) in differences(cfg, default_config()).items()}
    assert changed == expected
    values = plain(flatten(cfg))
    for key, value in (DEFAULTS | recipe["explicit_but_equal_to_default"]).items():
        if key not in changes:
            assert values[key] == value, key


def test_a_scenes_run_differs_in_the_listed_keys_only():
    changed = set()
    for task in TASKS.values():
        real, scenes = resolve(task.config), resolve(task.config, SCENES)
        changed |= set(differences(scenes, real))
        assert real.DATALOADER.NUM_WORKERS != scenes.DATALOADER.NUM_WORKERS == 0
    assert changed == SCENES_KEYS


@pytest.mark.parametrize("name", ["coco_c4", "coco_fpn"])
def test_anchor_scale_multiplies_every_size_once(name):
    plain_sizes = resolve(TASKS[name].config).MODEL.ANCHOR_GENERATOR.SIZES
    scaled = resolve(TASKS[name].config, overrides=["TRANSFER.ANCHOR_SCALE", "0.25"])
    sizes = scaled.MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes == [[size / 4 for size in level] for level in plain_sizes]
    assert scaled.TRANSFER.ANCHOR_SCALE == 1.0


def test_the_hash_ignores_place_device_and_seed_but_no_setting():
    cfg = resolve(TASKS["coco_c4"].config)
    before = config_sha256(cfg)
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE, cfg.SEED, cfg.DATALOADER.NUM_WORKERS = "x", "cpu", 3, 9
    assert config_sha256(cfg) == before
    cfg.SOLVER.BASE_LR = 0.01
    assert config_sha256(cfg) != before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["SOLVER.MAX_ITERS", "3"], "unknown key SOLVER.MAX_ITERS.*SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER"], "has no partner"),
        (["MODEL.WEIGHTS", "x.pth"], "MODEL.WEIGHTS is set by --weights"),
        (["DATASETS.TEST", "('a', 'b')"], "DATASETS.TEST must name one"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN names no data set"),
        (["TRANSFER.AMP_DTYPE", "bf8"], "TRANSFER.AMP_DTYPE 'bf8' is none of fp16, bf16"),
        (["SOLVER.MAX_ITER", "60000"], "STEPS .60000, 80000. with SOLVER.MAX_ITER 60000: expected"),
        *(
            ([f"SOLVER.{key}", value], rf"SOLVER.{key} {value}(\.0)?: must be above 0")
            for key in ("IMS_PER_BATCH", "MAX_ITER", "CHECKPOINT_PERIOD", "BASE_LR")
            for value in ("0", "-2")
        ),
        (["SOLVER.BASE_LR", ".nan"], "SOLVER.BASE_LR"),
        (["SOLVER.MAX_ITER=9", "SEED=3"], "SEED is set by --seed"),
        (["DATALOADER.NUM_WORKERS", "-1"], "NUM_WORKERS -1 is below 0"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE 'gpu' is neither cpu nor cuda"),
        (["MODEL.RESNETS.DEPTH", "42"], "DEPTH 42 is none of 18, 34, 50"),
        (["SOLVER.LR_SCHEDULER_NAME", "foo"], "'foo' is none of WarmupMultiStepLR"),
        (["INPUT.MIN_SIZE_TRAIN", "()"], "MIN_SIZE_TRAIN is empty"),
        (
            ["SOLVER.REFERENCE_WORLD_SIZE", "32"],
            "IMS_PER_BATCH 16 is no multiple of SOLVER.REFERENCE_WORLD_SIZE 32",
        ),
        (["SOLVER.REFERENCE_WORLD_SIZE", "-8"], "no multiple of SOLVER.REFERENCE_WORLD_SIZE -8"),
        (["SOLVER.IMS_PER_BATCH", "two"], "SOLVER.IMS_PER_BATCH"),
        (["DATASETS.TRAIN", "(3,)"], r"DATASETS.TRAIN \(3,\): expected text in it"),
        (["TRANSFER.METRICS", "(5,)"], r"TRANSFER.METRICS \(5,\): expected text in it"),
        (["INPUT.MIN_SIZE_TRAIN", "('a',)"], "MIN_SIZE_TRAIN .*: expected numbers in it"),
        (["MODEL.PIXEL_MEAN", "[1, 2, 'x']"], "PIXEL_MEAN .*: expected numbers in it"),
        (["MODEL.ANCHOR_GENERATOR.SIZES", "[['x']]"], "SIZES .*: expected numbers in it"),
        (["TEST.KEYPOINT_OKS_SIGMAS", "['x']"], "SIGMAS .*: expected numbers in it"),
        (["SOLVER.STEPS", "(9, 5)"], "STEPS .9, 5. with SOLVER.MAX_ITER 90000: expected ascending"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve(TASKS["coco_c4"].config, overrides=overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["SOLVER.MAX_ITER", "70000"],  # Detectron2 leaves out 80000, with a warning
        ["SOLVER.MAX_ITER", "60000", "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"],  # has no steps
    ],
)
def test_steps_that_detectron2_leaves_out_are_left_to_it(overrides):
    assert resolve(TASKS["coco_c4"].config, overrides=overrides).SOLVER.STEPS == (60000, 80000)


def test_without_detectron2_the_import_says_how_to_install_it():
    code = "import sys; sys.modules['detectron2'] = None; import transfer"
    command = [sys.executable, "-c", code]
    outcome = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    last_line = outcome.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: transfer needs Detectron2")
    assert "make install" in last_line
    assert "pip install" in last_line


def test_a_key_of_newer_builds_changes_a_config_only_where_it_is_set():
    cfg = resolve(TASKS["coco_fpn"].config)
    newer = cfg.clone()
    newer.FLOAT32_PRECISION = ""
    assert config_sha256(newer) == config_sha256(cfg)
    assert differences(newer, cfg) == differences(cfg, newer) == {}
    newer.FLOAT32_PRECISION = "high"
    assert config_sha256(newer) != config_sha256(cfg)
    assert differences(newer, cfg) == {"FLOAT32_PRECISION": ("high", None)}


UPSTREAM = """
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import ROI_HEADS_REGISTRY
for name in ("densepose_coco_2014_train", "densepose_coco_2014_minival"):
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).set(json_file="elsewhere.json")
ROI_HEADS_REGISTRY.register(type("DensePoseROIHeads", (), {}))

import transfer
assert ROI_HEADS_REGISTRY.get("DensePoseROIHeads").__module__ == "transfer.densepose.roi_heads"
assert MetadataCatalog.get("densepose_coco_2014_train").evaluator_type == "densepose"
from deeplearning.projects.cityscapesApi.cityscapesscripts.helpers.labels import labels
assert labels[24].name == "person"
"""


def test_upstreams_densepose_may_come_first_and_its_name_of_cityscapes_scripts_is_known():
    subprocess.run([sys.executable, "-c", UPSTREAM], cwd=REPOSITORY, check=True)
