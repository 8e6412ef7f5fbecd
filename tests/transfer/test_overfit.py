"""Each task over-fits a handful of images: labels, losses, inference and evaluation agree."""

import json

import pytest

from benchmarks.scenes.generate import Request, generate
from tests.transfer.tiny import SCENES, data_sets_at
from transfer.__main__ import main
from transfer.config import resolve
from transfer.tasks import TASKS

# The 8 images of this seed show each class of Cityscapes, 10 of them each of VOC.
SEED, IMAGES, VOC_IMAGES = 27, 8, 10
DRAWN_FOR_PEOPLE = 60  # of so many, the 8 whose smallest person is largest
ITERATIONS = {
    "coco_c4": 700,
    "coco_fpn": 200,
    "lvis_fpn": 200,
    "cityscapes_fpn": 300,
    "keypoints_fpn": 400,
    "densepose_fpn": 400,
    "voc_c4": 750,
}  # coco_c4_2x is coco_c4 for longer, densepose_fpn_legacy has no decoder before the same head

# Laid over the scenes overlay: the same pictures again and again, and more boxes.
OVERRIDES = {
    "INPUT.RANDOM_FLIP": "none",
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "MODEL.RPN.POST_NMS_TOPK_TEST": 100,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "TEST.DETECTIONS_PER_IMAGE": 30,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
}
# Heads without norms bear large steps only where gradients are clipped.
FPN = {
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.5,
    "SOLVER.IMS_PER_BATCH": 4,
    "SOLVER.BASE_LR": 0.05,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
}

# Eight convolutions of 512 channels, or res5 on 14x14 cells of a map of 8x8, would take most of the
# time.
SMALL_ROI = {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7}
HEADS = {
    "coco_c4": SMALL_ROI,
    "voc_c4": SMALL_ROI,
    "keypoints_fpn": {"MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": "(128, 128, 128, 128)"},
    "densepose_fpn": {
        "MODEL.ROI_DENSEPOSE_HEAD.NUM_STACKED_CONVS": 4,
        "MODEL.ROI_DENSEPOSE_HEAD.CONV_HEAD_DIM": 128,
        "SOLVER.BASE_LR": 0.02,
    },
}
# The file that a task of people is tested on, and the key that a person has who counts.
PEOPLE = {
    "keypoints_fpn": ("person_keypoints_val2017.json", "num_keypoints"),
    "densepose_fpn": ("densepose_minival2014.json", "dp_x"),
}


def draw(task, folder):
    """The images that ``task`` is to learn by heart, as its test set."""
    if task not in PEOPLE:
        images = VOC_IMAGES if task == "voc_c4" else IMAGES
        generate(folder, Request(0, 2, images, longest_side=128, seed=SEED))
        return
    generate(folder, Request(0, 2, DRAWN_FOR_PEOPLE, longest_side=192, seed=SEED), workers=2)
    name, key = PEOPLE[task]
    file = folder / "coco" / "annotations" / name
    content = json.loads(file.read_text())
    areas = {}
    for person in content["annotations"]:
        area = person["area"] if person.get(key) else 0
        areas.setdefault(person["image_id"], []).append(area)
    chosen = sorted(areas, key=lambda image: -min(areas[image]))[:IMAGES]
    content["images"] = [i for i in content["images"] if i["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    file.write_text(json.dumps(content))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", ITERATIONS)
def test_the_main_metric_on_the_training_images_passes_50(task, tmp_path):
    draw(task, tmp_path / "scenes")
    (name,) = resolve(TASKS[task].config).DATASETS.TEST
    overrides = OVERRIDES | (FPN if task.endswith("_fpn") else {})
    overrides |= HEADS.get(task, {})
    overrides |= {
        "DATASETS.TRAIN": f"('{name}',)",
        "SOLVER.MAX_ITER": ITERATIONS[task],
        "SOLVER.STEPS": f"({ITERATIONS[task] * 6 // 7},)",
    }
    words = ["--task", task, "--weights", "random", "--output", str(tmp_path / "run")]
    words += ["--overlay", SCENES, *(str(word) for pair in overrides.items() for word in pair)]
    with data_sets_at(tmp_path / "scenes"):
        assert main(words) == 0
        result = json.loads((tmp_path / "run" / "metrics.json").read_text())
        print(f"{task}: {result['metrics']}")
        assert result["metrics"][TASKS[task].main_metric] > 50

        # Evaluating the checkpoint again gives the same numbers.
        assert main(["--eval-only", *words]) == 0
    again = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert again["metrics"] == result["metrics"]


def test_every_task_over_fits_or_is_another_one_for_longer():
    assert set(TASKS) - set(ITERATIONS) == {"coco_c4_2x", "densepose_fpn_legacy"}
