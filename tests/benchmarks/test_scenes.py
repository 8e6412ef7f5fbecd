import fcntl
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from benchmarks.scenes import coco
from benchmarks.scenes.__main__ import main
from benchmarks.scenes.generate import Request, ScenesError, generate
from benchmarks.scenes.people import KEYPOINTS, MIRRORED
from benchmarks.scenes.scene import CLASSES, EASY, make_scene

REQUEST = Request(unlabelled=4, train=60, val=40, longest_side=128, seed=3)
SPLITS = {"train": REQUEST.train, "val": REQUEST.val}
VOC_CLASSES = (
    "airplane bicycle bird boat bottle bus car cat chair cow dining_table dog horse motorcycle "
    "person potted_plant sheep couch train tv"
)
CITYSCAPES_CLASSES = "person rider car truck bus train motorcycle bicycle"


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "out"
    generate(folder, REQUEST)
    return folder


@pytest.fixture(scope="module")
def labels(out):
    return {split: json.loads(json_path(out, split).read_text()) for split in SPLITS}


@pytest.fixture(scope="module")
def scenes():
    """The same images as in ``out``, with what is known beyond the labels."""
    return {
        split: [make_scene(REQUEST.seed, split, i, REQUEST.longest_side) for i in range(count)]
        for split, count in SPLITS.items()
    }


def json_path(out, split):
    return out / f"coco/annotations/instances_{split}2017.json"


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def decoded(label, image):
    """The label's mask, (h, w) bool, as COCO's own code reads it."""
    lengths = mask_utils.frPyObjects(label["segmentation"], image["height"], image["width"])
    if isinstance(lengths, list):
        lengths = mask_utils.merge(lengths)
    return mask_utils.decode(lengths).astype(bool)


def labels_with_instances(labels, scenes):
    """(label, instance that was drawn, image entry) of everything."""
    for split, content in labels.items():
        by_image = defaultdict(list)
        for label in content["annotations"]:
            by_image[label["image_id"]].append(label)
        for image, scene in zip(content["images"], scenes[split], strict=True):
            for label, instance in zip(by_image[image["id"]], scene.instances, strict=True):
                yield label, instance, image


def test_same_seed_gives_same_bytes_for_any_number_of_workers(tmp_path):
    request = Request(unlabelled=5, train=9, val=6, longest_side=96, seed=1)
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        generate(tmp_path / name, request, workers)
    first = files(tmp_path / "one")
    pictures, labelled = 5 + 9 + 6, 9 + 6
    layouts = labelled * (2 + 5 + 1)  # VOC, Cityscapes, DensePose
    assert len(first) == pictures + layouts + (3 * 2 + 4) + 3 + 5 + 1  # JSON, lists, surface
    assert files(tmp_path / "again") == first
    assert files(tmp_path / "two") == first


def test_seeds_splits_and_indices_give_different_images():
    scenes = [
        make_scene(seed, split, index, 96)
        for seed in (0, 1)
        for split in ("unlabelled", "train", "val")
        for index in (0, 22)
    ]
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)


def test_image_does_not_depend_on_how_many_are_drawn(tmp_path, out):
    fewer = Request(unlabelled=1, train=2, val=1, longest_side=128, seed=3)
    generate(tmp_path / "fewer", fewer)
    for name, content in files(tmp_path / "fewer" / "coco").items():
        if name.endswith(".jpg"):
            assert content == (out / "coco" / name).read_bytes(), name


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
    assert 86 <= min(sides) < 95
    assert 120 < max(sides) <= 128


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


def test_masks_boxes_and_areas_follow_the_visible_pixels(labels, scenes):
    for label, instance, image in labels_with_instances(labels, scenes):
        mask = decoded(label, image)
        assert np.array_equal(mask, instance.mask)  # polygons follow the pixels' edges
        assert label["area"] == instance.mask.sum()
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert label["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert label["category_id"] == coco.CATEGORY_IDS[instance.name]


def test_polygon_around_a_hole_is_exact():
    mask = np.zeros((20, 30), dtype=bool)
    mask[2:18, 3:25] = True
    mask[5:9, 6:7] = mask[10:15, 12:20] = mask[3, 4] = False
    mask[18, 25] = mask[0, 29] = True  # joined at a corner; a single pixel
    image = {"height": 20, "width": 30}
    label = {"segmentation": coco.polygons(mask)}
    assert np.array_equal(decoded(label, image), mask)
    assert all(len(outline) >= 6 for outline in label["segmentation"])


def test_run_lengths_agree_with_pycocotools_from_either_first_value():
    for seed in range(6):
        mask = np.random.default_rng(seed).random((7, 5)) < 0.5
        lengths = coco.run_lengths(mask)
        assert sum(lengths["counts"]) == mask.size
        assert np.array_equal(mask_utils.decode(mask_utils.frPyObjects(lengths, 7, 5)), mask)


def test_no_two_labels_share_a_pixel(labels, scenes):
    count = defaultdict(int)
    for label, _, image in labels_with_instances(labels, scenes):
        count[label["image_id"]] = count[label["image_id"]] + decoded(label, image).astype(int)
    assert max(total.max() for total in count.values()) == 1


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


def told_by_mean_colour(easy):
    """Share of front objects whose mean colour is nearest to that of their class."""

    def colours(split):
        for index in range(5 * len(CLASSES)):
            scene = make_scene(0, split, index, 96, easy)
            front = scene.instances[0]
            yield front.name, scene.image[front.mask].mean(axis=0)

    by_class = defaultdict(list)
    for name, mean in colours("train"):
        by_class[name].append(mean)
    centres = {name: np.mean(values, axis=0) for name, values in by_class.items()}
    hits = [
        name == min(centres, key=lambda other: np.linalg.norm(centres[other] - mean))
        for name, mean in colours("val")
    ]
    return np.mean(hits)


def test_classes_cannot_be_told_by_mean_colour_unless_they_are_to_be_easy():
    assert told_by_mean_colour(easy=False) < 0.15  # guessing gives 1 in 22
    assert told_by_mean_colour(easy=True) > 0.4  # and here 1 in 6


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


def test_detectron2_reads_it_as_its_builtin_coco_2017(out, labels):
    script = """
import json
from detectron2.data import DatasetCatalog, MetadataCatalog
for split in ("train", "val"):
    records = DatasetCatalog.get(f"coco_2017_{split}")
    print(json.dumps([len(records), sum(len(r["annotations"]) for r in records),
                      len(MetadataCatalog.get(f"coco_2017_{split}").thing_classes)]))
"""
    environment = {**os.environ, "DETECTRON2_DATASETS": str(out)}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    read = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[")]
    assert read == [[SPLITS[s], len(labels[s]["annotations"]), 80] for s in ("train", "val")]


def test_detectron2_makes_the_drawn_masks_of_the_labels(out, scenes):
    from detectron2.data.datasets import load_coco_json
    from detectron2.data.detection_utils import annotations_to_instances
    from detectron2.structures import polygons_to_bitmask

    records = load_coco_json(str(json_path(out, "val")), str(out / "coco/val2017"))
    crowds = 0
    for record, scene in zip(records, scenes["val"], strict=True):
        size = record["height"], record["width"]
        assert os.path.isfile(record["file_name"])
        whole = [a for a in record["annotations"] if not a["iscrowd"]]
        objects = [i for i in scene.instances if not i.is_crowd]
        polygons = annotations_to_instances(whole, size).gt_masks.polygons
        for outline, instance in zip(polygons, objects, strict=True):
            assert np.array_equal(polygons_to_bitmask(outline, *size), instance.mask)
        for label, instance in zip(record["annotations"], scene.instances, strict=True):
            if label["iscrowd"]:
                assert np.array_equal(mask_utils.decode(label["segmentation"]), instance.mask)
                crowds += 1
    assert crowds > 0


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
            mask = decoded(label, sizes[label["image_id"]])
            prediction["segmentation"] = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
        predictions.append({**prediction, "score": 0.9})
    evaluation = COCOeval_faster(
        truth, truth.loadRes(predictions), kind, print_function=lambda *_: None
    )
    evaluation.run()
    assert evaluation.stats[0] == pytest.approx(1, abs=1e-6)
    assert evaluation.stats[1] == pytest.approx(1, abs=1e-6)


def test_finished_folder_is_left_alone_and_other_arguments_are_refused(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(out), "--images", "1", "--train", "2", "--val", "1", "--size", "64"]
    arguments += ["--workers", "1"]
    assert main(arguments) == 0
    line = capsys.readouterr().out
    assert line.startswith("scenes: 4 images (1 unlabelled, 2 train, 1 val), ")
    assert line.rstrip().endswith(f"-> {out}")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(arguments) == 0
    assert "already holds" in capsys.readouterr().out
    assert main([*arguments, "--seed", "9"]) == 1
    message = capsys.readouterr().err
    assert f"{out}: holds scenes with seed 0; asked for seed 9. Delete it, or" in message
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize("content", [{"holiday.jpg": ""}, {"scenes.json": "{"}])
def test_folder_with_other_content_is_refused_and_kept(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ScenesError, match="Delete it, or name another folder"):
        generate(tmp_path, REQUEST)
    assert {path.name for path in tmp_path.iterdir()} == set(content)


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, workers):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco, "finish", interrupt)
    request = Request(unlabelled=2, train=1, val=1, longest_side=64)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "out", request, workers)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert generate(tmp_path / "out", request, workers)["train"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed_and_a_running_one_is_respected(tmp_path):
    partial = tmp_path / ".out.partial"
    (partial / "coco/train2017").mkdir(parents=True)
    (partial / "coco/train2017/000000009999.jpg").write_bytes(b"half")
    request = Request(unlabelled=0, train=1, val=1, longest_side=64)
    descriptor = os.open(partial, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ScenesError, match="another process"):
        generate(tmp_path / "out", request)
    assert (partial / "coco/train2017/000000009999.jpg").exists()
    os.close(descriptor)
    generate(tmp_path / "out", request)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out/coco/train2017").iterdir()] == [
        "000000000001.jpg"
    ]


@pytest.mark.parametrize("flags", [["--images", "-1"], ["--size", "10"], ["--train", "many"]])
def test_impossible_arguments_are_refused(tmp_path, flags):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "out"), *flags])
    assert list(tmp_path.iterdir()) == []


def test_generating_needs_neither_torch_nor_detectron2():
    script = (
        "import sys, benchmarks.scenes.__main__\n"
        "assert not {'torch', 'detectron2'} & set(sys.modules), 'imported'"
    )
    repository = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=repository, check=True)
