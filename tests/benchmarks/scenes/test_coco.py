"""COCO's labels of scenes, and what scenes show."""

import json
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from benchmarks.scenes import coco
from benchmarks.scenes.__main__ import main
from benchmarks.scenes.people import KEYPOINTS, MIRRORED
from benchmarks.scenes.scene import CLASSES, EASY, make_scene
from tests.benchmarks.scenes.drawn import REQUEST, SPLITS, decoded

VOC_CLASSES = (
    "airplane bicycle bird boat bottle bus car cat chair cow dining_table dog horse motorcycle "
    "person potted_plant sheep couch train tv"
)
CITYSCAPES_CLASSES = "person rider car truck bus train motorcycle bicycle"


def test_image_files_agree_with_their_entries_and_the_splits_are_disjoint(out, labels):
    names = Counter()
    for split, content in labels.items():
        assert len(content["images"]) == SPLITS[split]
        for image in content["images"]:
            path = out / f"coco/{split}2017" / image["file_name"]
            assert path.name == f"{image['id']:012d}.jpg"
            with Image.open(path) as picture:
                assert picture.size == (image["width"], image["height"])
            names[path.name] += 1
    unlabelled = sorted((out / "coco/unlabeled2017").iterdir())
    assert len(unlabelled) == REQUEST.unlabelled
    names.update(path.name for path in unlabelled)
    assert set(names.values()) == {1}
    ids = [label["id"] for content in labels.values() for label in content["annotations"]]
    assert len(ids) == len(set(ids))


def test_sides_vary_between_two_thirds_of_the_longest_and_the_longest(labels):
    sides = {image[side] for image in labels["train"]["images"] for side in ("width", "height")}
    longest = REQUEST.longest_side
    assert 2 / 3 * longest <= min(sides) < 0.75 * longest
    assert 0.94 * longest < max(sides) <= longest


def test_categories_are_the_official_80():
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    official = [(c["id"], c["name"]) for c in COCO_CATEGORIES if c["isthing"]]
    assert [(c["id"], c["name"]) for c in coco.CATEGORIES] == official
    assert len(official) == 80
    assert set(CLASSES) <= set(coco.CATEGORY_IDS)


def test_classes_cover_voc_and_cityscapes_and_all_are_in_every_split(labels, scenes):
    wanted = {name.replace("_", " ") for name in f"{VOC_CLASSES} {CITYSCAPES_CLASSES}".split()}
    assert wanted == set(CLASSES)
    for split in SPLITS:
        drawn = {i.name for scene in scenes[split] for i in scene.instances if not i.is_crowd}
        assert drawn == wanted
        present = {x["category_id"] for x in labels[split]["annotations"] if not x["iscrowd"]}
        assert present == {coco.CATEGORY_IDS[name] for name in wanted}


@pytest.mark.parametrize("longest_side", [64, 192])
def test_image_shows_the_class_of_its_index_in_front(longest_side):
    for index in range(2 * len(CLASSES)):
        front = make_scene(7, "val", index, longest_side).instances[0]
        assert front.name == CLASSES[index % len(CLASSES)]
        assert front.hidden == 0


def test_masks_boxes_and_areas_follow_the_visible_pixels_and_share_none(labels, scenes):
    for split, content in labels.items():
        by_image = defaultdict(list)
        for label in content["annotations"]:
            by_image[label["image_id"]].append(label)
        for image, scene in zip(content["images"], scenes[split], strict=True):
            covered = 0
            for label, instance in zip(by_image[image["id"]], scene.instances, strict=True):
                mask = decoded(label["segmentation"], image["height"], image["width"])
                assert np.array_equal(mask, instance.mask)  # polygons follow the pixels' edges
                assert label["area"] == instance.mask.sum()
                rows, columns = np.nonzero(mask)
                x, y = columns.min(), rows.min()
                assert label["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
                assert label["category_id"] == coco.CATEGORY_IDS[instance.name]
                covered = covered + mask.astype(int)
            assert covered.max() == 1


def test_polygon_around_a_hole_is_exact():
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:18, 3:25] = True
    mask[5:9, 6:7] = mask[10:15, 12:20] = mask[3, 4] = False
    mask[18, 25] = mask[0, 29] = True  # joined at a corner; a single pixel
    outlines = coco.polygons(mask)
    assert np.array_equal(decoded(outlines, 20, 30), mask)
    assert all(len(outline) >= 6 for outline in outlines)


def test_run_lengths_agree_with_pycocotools_from_either_first_value():
    for seed in range(6):
        mask = np.random.default_rng(seed).random((7, 5)) < 0.5
        lengths = coco.run_lengths(mask)
        assert sum(lengths["counts"]) == mask.size
        assert np.array_equal(mask_utils.decode(mask_utils.frPyObjects(lengths, 7, 5)), mask)


def test_objects_are_hidden_cut_split_and_of_many_sizes(scenes):
    objects = [i for s in scenes["train"] for i in s.instances if not i.is_crowd]
    assert sum(i.hidden > 0.05 for i in objects) > 0.15 * len(objects)
    assert sum(i.cut > 0.05 for i in objects) > 0.1 * len(objects)
    assert sum(len(coco.polygons(i.mask)) > 1 for i in objects) > 0.1 * len(objects)
    areas = [i.area for i in objects]
    assert np.quantile(areas, 0.95) > 10 * np.quantile(areas, 0.05)
    assert min(areas) < 200 < 32**2 < max(areas)


def test_crowds_cover_their_many_small_members_and_nothing_else(scenes):
    crowds = [i for split in scenes.values() for s in split for i in s.instances if i.is_crowd]
    assert len(crowds) >= 3
    for crowd in crowds:
        assert len(crowd.members) >= 5
        union = np.zeros_like(crowd.mask)
        for member in crowd.members:
            assert member.name == crowd.name
            assert not (union & member.mask).any()
            assert member.area < 0.05 * crowd.mask.size
            union |= member.mask
        assert np.array_equal(union, crowd.mask)


def test_joints_lie_on_the_body_and_mirroring_swaps_the_sides():
    assert [KEYPOINTS[i] for i in MIRRORED][:3] == ["nose", "right_eye", "left_eye"]
    assert sorted(MIRRORED) == list(range(17))
    people = CLASSES.index("person"), CLASSES.index("rider")
    for index in [p + len(CLASSES) * k for p in people for k in range(8)]:
        scene = make_scene(5, "train", index)
        person = scene.instances[0]
        assert person.joints.shape == (17, 2)
        height, width = person.mask.shape
        rows, columns = np.nonzero(person.mask)
        for x, y in person.joints:
            if 0 <= x < width and 0 <= y < height:
                assert np.hypot(columns - x, rows - y).min() < 2


def test_easy_scenes_have_few_large_objects_of_six_classes_and_no_crowds(tmp_path):
    words = ["--images", "1", "--train", "44", "--val", "1", "--size", "128", "--easy"]
    assert main([str(tmp_path / "easy"), *words]) == 0
    summary = json.loads((tmp_path / "easy" / "scenes.json").read_text())
    assert summary["easy"] is True
    assert summary["crowds"] == 0
    easy, hard = (
        [make_scene(0, "train", index, 128, is_easy).instances for index in range(44)]
        for is_easy in (True, False)
    )
    assert max(map(len, easy)) <= 1 + 3
    fronts = [objects[0].name for objects in easy]
    assert fronts == [EASY.classes[index % 6] for index in range(44)]
    assert {instance.name for objects in easy for instance in objects} == set(EASY.classes)
    for names in (VOC_CLASSES, CITYSCAPES_CLASSES):
        assert set(EASY.classes) <= set(names.split())
    share = [np.median([i.mask.mean() for o in objects for i in o]) for objects in (easy, hard)]
    assert share[0] > 1.5 * share[1]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_labels_fed_back_as_predictions_score_100(labels, kind):
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(labels["val"])
    sizes = {image["id"]: image for image in labels["val"]["images"]}
    predictions = []
    for label in labels["val"]["annotations"]:
        if label["iscrowd"]:
            continue
        prediction = {key: label[key] for key in ("image_id", "category_id", "bbox")}
        if kind == "segm":
            size = (sizes[label["image_id"]][side] for side in ("height", "width"))
            mask = decoded(label["segmentation"], *size)
            prediction["segmentation"] = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
        predictions.append({**prediction, "score": 0.9})
    evaluation = COCOeval_faster(
        truth, truth.loadRes(predictions), kind, print_function=lambda *_: None
    )
    evaluation.run()
    assert evaluation.stats[0] == pytest.approx(1, abs=1e-6)
    assert evaluation.stats[1] == pytest.approx(1, abs=1e-6)
