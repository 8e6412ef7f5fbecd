"""What the layouts beside COCO's hold, as Detectron2's own code reads it."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import id2label, name2label
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.cityscapes import load_cityscapes_instances
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from PIL import Image
from pycocotools import mask as mask_utils

from benchmarks.scenes import cityscapes, coco, keypoints, lvis, voc
from benchmarks.scenes.generate import Request
from benchmarks.scenes.people import KEYPOINTS
from benchmarks.scenes.scene import make_scene
from tests.benchmarks.scenes.drawn import (
    REQUEST,
    SPLITS,
    decoded,
    drawn,
    read_json,
    share_in_common,
    without,
)
from tests.transfer.tiny import data_sets_at
from transfer import data
from transfer.tasks import TASKS

# As in the official person_keypoints_val2017.json; counted from 1.
SKELETON = [
    *([16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9]),
    *([8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7]),
]


@pytest.fixture(scope="module", autouse=True)
def _data_sets(out):
    with data_sets_at(out):
        yield


def test_the_data_checks_of_every_task_pass(out):
    from transfer.config import resolve

    for task in TASKS.values():
        cfg = resolve(task.config)
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        data.check_config(cfg, [data.check(name) for name in names])


@pytest.mark.parametrize("split", SPLITS)
def test_keypoints_are_the_drawn_joints(out, scenes, split):
    records = DatasetCatalog.get(f"keypoints_coco_2017_{split}")
    assert len(records) == SPLITS[split]
    values, crowds = Counter(), 0
    for record, scene in zip(records, scenes[split], strict=True):
        people = [one for one in scene.instances if one.name in ("person", "rider")]
        for label, person in zip(record["annotations"], people, strict=True):
            assert label["bbox"] == list(person.box)
            triples = np.array(label["keypoints"]).reshape(17, 3)
            if person.is_crowd:
                assert label["iscrowd"]
                assert not triples[:, 2].any()
                crowds += 1
                continue
            for (x, y, v), joint in zip(triples, person.joints, strict=True):
                values[v] += 1
                inside = (joint >= 0).all() and (joint < person.mask.shape[::-1]).all()
                assert (v > 0) == inside
                if inside:
                    # Detectron2 takes whole numbers for pixels, and has added half of one.
                    assert abs(np.array([x, y]) - joint).max() <= 0.5
                    assert (v == keypoints.VISIBLE) == person.mask[int(y), int(x)]
                else:
                    assert (x, y) == (0.5, 0.5)
    assert min(values[v] for v in (0, 1, 2)) > 0
    assert values[2] > sum(values.values()) / 2
    assert crowds or split == "val"


def test_people_have_the_same_labels_among_keypoints_and_instances(out, labels):
    for split, everything in labels.items():
        people = read_json(out, f"person_keypoints_{split}2017")
        assert people["images"] == everything["images"]
        expected = [a for a in everything["annotations"] if a["category_id"] == 1]
        found = [without(a, "keypoints", "num_keypoints") for a in people["annotations"]]
        assert found == expected
        for label in people["annotations"]:
            assert label["num_keypoints"] == np.count_nonzero(label["keypoints"][2::3])
        assert [category["name"] for category in people["categories"]] == ["person"]
        assert people["categories"][0]["keypoints"] == KEYPOINTS
        assert people["categories"][0]["skeleton"] == SKELETON
        known = MetadataCatalog.get("keypoints_coco_2017_val").keypoint_names
        assert list(known) == KEYPOINTS


def test_voc_boxes_are_the_drawn_ones(out, scenes):
    metadata = MetadataCatalog.get("voc_2007_test")
    assert set(metadata.thing_classes) == set(voc.NAMES.values())
    records = {}
    for name in ("voc_2007_trainval", "voc_2012_trainval", "voc_2007_test"):
        for record in DatasetCatalog.get(name):
            records[name.replace("voc_", "VOC").split("_")[0], record["image_id"]] = record
    assert len(records) == sum(SPLITS.values())
    for split, index, scene in drawn(scenes):
        folder, _, image_id = voc._place(split, index)
        record = records[folder, image_id]
        picture = out / coco.image_path(split, index)
        assert open(record["file_name"], "rb").read() == picture.read_bytes()
        objects = [one for i in scene.instances for one in (i.members or (i,))]
        objects = [one for one in objects if one.name != "truck"]
        for label, instance in zip(record["annotations"], objects, strict=True):
            x, y, width, height = instance.box
            assert label["bbox"] == [x, y, x + width, y + height]
            assert metadata.thing_classes[label["category_id"]] == voc.NAMES[instance.name]


def test_voc_marks_what_is_cut_hidden_or_of_a_crowd(out, scenes):
    seen = defaultdict(set)
    for split, index, scene in drawn(scenes):
        folder, _, image_id = voc._place(split, index)
        tree = ElementTree.parse(out / folder / "Annotations" / f"{image_id}.xml")
        expected = [
            {
                "truncated": one.cut > voc.TRUNCATED,
                "occluded": one.hidden > voc.OCCLUDED,
                "difficult": instance.is_crowd,
            }
            for instance in scene.instances
            for one in instance.members or (instance,)
            if one.name in voc.NAMES
        ]
        for entry, marks in zip(tree.findall("object"), expected, strict=True):
            for mark, value in marks.items():
                assert int(entry.find(mark).text) == value
                seen[mark].add(value)
    assert all(values == {False, True} for values in seen.values())


def test_voc_and_cityscapes_classes_are_all_in_every_set_of_the_usual_size():
    request = Request()
    seen = {}
    for split in ("train", "val"):
        for index in range(getattr(request, split)):
            scene = make_scene(request.seed, split, index, request.longest_side)
            names = {one.name for one in scene.instances if not one.is_crowd}
            seen.setdefault(voc._place(split, index)[:2], set()).update(map(voc.NAMES.get, names))
            seen.setdefault(split, set()).update(names)
    twenty = set(voc.NAMES.values())
    assert len(twenty) == 20
    for place in (("VOC2007", "trainval"), ("VOC2012", "trainval"), ("VOC2007", "test")):
        assert seen[place] >= twenty, place
    eight = {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}
    assert seen["train"] >= eight
    assert seen["val"] >= eight


def read_lvis(out, name):
    return json.loads((out / "lvis" / f"lvis_v1_{name}.json").read_text())


def test_lvis_labels_what_was_searched_for_and_says_what_was_not_there(out, scenes):
    by_url, labels = {}, {}
    for name in ("train", "val"):
        content = read_lvis(out, name)
        by_url |= {image["coco_url"]: image for image in content["images"]}
        for annotation in content["annotations"]:
            labels.setdefault(annotation["image_id"], []).append(annotation)
    assert len(by_url) == sum(SPLITS.values())
    unsearched = 0
    for split, index, scene in drawn(scenes):
        image = by_url[f"{lvis.URL}/{split}2017/{coco.image_path(split, index).name}"]
        own = labels.get(image["id"], [])
        found = Counter(label["category_id"] for label in own)
        absent, partial = image["neg_category_ids"], image["not_exhaustive_category_ids"]
        assert not set(absent) & set(found)
        assert set(partial) <= set(found)
        whole = Counter()
        for instance in scene.instances:
            category = lvis.CATEGORY_IDS[lvis.NAMES[instance.name]]
            assert category not in absent
            if instance.is_crowd:
                assert (category in partial) == (category in found)
            else:
                whole[category] += 1
        for category, count in whole.items():
            searched = category in found
            unsearched += not searched
            if searched and category not in partial and category != lvis.CATEGORY_IDS["person"]:
                assert found[category] == count
    assert unsearched > 20
    assert all("iscrowd" not in label for own in labels.values() for label in own)


def test_lvis_masks_and_boxes_are_the_drawn_ones(out, scenes):
    by_id = {coco.image_id(split, index): scene for split, index, scene in drawn(scenes)}
    labels = 0
    for record in [*DatasetCatalog.get("lvis_v1_train"), *DatasetCatalog.get("lvis_v1_val")]:
        objects = defaultdict(list)
        for instance in by_id[record["image_id"]].instances:
            for one in instance.members or (instance,):
                objects[lvis.CATEGORY_IDS[lvis.NAMES[one.name]] - 1, one.box].append(one.mask)
        for label in record["annotations"]:
            size = record["height"], record["width"]
            mask = decoded(label["segmentation"], *size)
            candidates = objects[label["category_id"], tuple(label["bbox"])]
            assert any(np.array_equal(mask, other) for other in candidates)
            labels += 1
    assert labels > 100


def test_lvis_sets_are_disjoint_and_val_lies_in_both_folders(out):
    train, val = (read_lvis(out, name) for name in ("train", "val"))
    ids = [{image["id"] for image in content["images"]} for content in (train, val)]
    assert not ids[0] & ids[1]
    folders = Counter(image["coco_url"].split("/")[-2] for image in val["images"])
    assert folders == {"val2017": REQUEST.val, "train2017": REQUEST.train // 10}
    for name, count in (("train", 60), ("val", 50)):
        records = DatasetCatalog.get(f"lvis_v1_{name}")
        assert len(records) == count
        assert all(Image.open(r["file_name"]).size == (r["width"], r["height"]) for r in records)


def test_lvis_has_the_official_categories_with_counts_and_frequencies_of_its_own(out):
    train, val = (read_lvis(out, name) for name in ("train", "val"))
    official = {c["id"]: c["name"] for c in LVIS_CATEGORIES}
    for content in (train, val):
        assert {c["id"]: c["name"] for c in content["categories"]} == official
        frequency = {c["id"]: c["frequency"] for c in content["categories"]}
        groups = Counter(frequency[a["category_id"]] for a in content["annotations"])
        assert set(groups) == {"r", "c", "f"}
    shown = Counter(c for c, _ in {(a["category_id"], a["image_id"]) for a in train["annotations"]})
    assert {c["id"]: c["image_count"] for c in train["categories"] if c["image_count"]} == shown
    instances = Counter(a["category_id"] for a in train["annotations"])
    counts = {c["id"]: c["instance_count"] for c in train["categories"] if c["instance_count"]}
    assert counts == instances
    rates = {
        group: np.mean([shown[lvis.CATEGORY_IDS[n]] for n, f in lvis.OURS.items() if f == group])
        for group in "rcf"
    }
    assert rates["r"] < rates["c"] < rates["f"]


@pytest.mark.parametrize("split", SPLITS)
def test_cityscapes_polygons_make_its_instance_maps(out, split):
    folders = [str(out / "cityscapes" / name / split) for name in ("leftImg8bit", "gtFine")]
    from_polygons = load_cityscapes_instances(*folders, from_json=True, to_polygons=True)
    from_maps = load_cityscapes_instances(*folders, from_json=False, to_polygons=False)
    maps = {record["file_name"]: record for record in from_maps}
    assert len(from_polygons) == SPLITS[split]
    for record in from_polygons:
        size = record["height"], record["width"]
        ours = [decoded(a["segmentation"], *size) for a in record["annotations"]]
        theirs = maps[record["file_name"]]["annotations"]
        assert len(ours) == len(theirs)
        for label in theirs:
            mask = mask_utils.decode(label["segmentation"])
            assert any(np.array_equal(mask, own) for own in ours)


def test_cityscapes_instances_are_the_drawn_ones_with_their_holes_filled(out, scenes):
    overlaps, groups = {}, []
    for split, index, scene in drawn(scenes):
        cities = cityscapes.CITIES[split]
        city = cities[index % len(cities)]
        stem = f"{city}_{index // len(cities):06d}_000019_gtFine"
        folder = out / "cityscapes" / "gtFine" / split / city
        ids, classes = (
            np.asarray(Image.open(folder / f"{stem}_{kind}.png"))
            for kind in ("instanceIds", "labelIds")
        )
        assert np.array_equal(np.where(ids >= 1000, ids // 1000, ids), classes)
        colours = np.asarray(Image.open(folder / f"{stem}_color.png").convert("RGB"))
        for number in np.unique(classes):
            assert (colours[classes == number] == id2label[number].color).all()
        picture = folder.parents[2] / "leftImg8bit" / split / city
        picture /= stem.replace("gtFine", "leftImg8bit.png")
        assert np.array_equal(np.asarray(Image.open(picture)), scene.image)
        for instance in scene.instances:
            label = name2label.get(instance.name)
            if label is None or not label.hasInstances:
                continue
            if instance.is_crowd:
                groups.append((ids[instance.mask] == label.id).mean())
                continue
            own = [ids == i for i in np.unique(ids[ids // 1000 == label.id])]
            best = max(share_in_common(mask, instance.mask) for mask in own)
            overlaps.setdefault(instance.name, []).append(best)
    assert np.median(groups) > 0.9  # a whole wheel may cover one
    assert len(overlaps) == 8
    wheels = overlaps.pop("bicycle")
    assert np.mean(wheels) > 0.6  # as Cityscapes' own: whole wheels
    assert min(np.mean(values) for values in overlaps.values()) > 0.95


def test_an_outline_joins_pieces_and_leaves_out_holes():
    mask = np.zeros((12, 20), bool)
    mask[2:9, 2:9] = True
    mask[4:6, 4:6] = False
    mask[5, 12:18] = True
    line = cityscapes.outline(mask)
    assert line.min(axis=0).tolist() == [2, 2]
    assert line.max(axis=0).tolist() == [17, 8]
    single = cityscapes.outline(np.eye(3, dtype=bool)[:, :1] & True)
    assert single.tolist() == [[0, 0]]


@pytest.mark.parametrize("easy", [False, True])
def test_an_image_is_always_searched_for_what_stands_in_front(easy):
    for index in range(30):
        scene = make_scene(0, "train", index, 96, easy)
        entry = lvis.add(Path(), "train", index, scene)
        front = lvis.CATEGORY_IDS[lvis.NAMES[scene.instances[0].name]]
        assert front in {annotation["category_id"] for annotation in entry["annotations"]}
