"""DensePose's data sets: records, which of them are used, and what can be wrong with the files."""

import itertools
import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.transfer.data.tiny_layouts import edit_json, write_json
from tests.transfer.densepose.cases import (
    MINIVAL,
    load_json,
    person,
    registered_at,
    runs,
    write_data,
    write_table,
)
from transfer import data
from transfer.config import default_config
from transfer.data import stream
from transfer.data.densepose import SPLITS, keep_for_testing, keep_for_training, load
from transfer.data.layout import DataError
from transfer.densepose.annotations import MASK_KEY, POINT_KEYS
from transfer.densepose.mapper import DensePoseMapper

pytestmark = pytest.mark.usefixtures("one_thread")
TRAIN = "densepose_coco_2014_train"
GOLDEN = load_json("loader")
DENSEPOSE_KEYS = (*POINT_KEYS, MASK_KEY)
JSON = {name: f"coco/annotations/{file}" for name, (file, _) in SPLITS.items()}


@pytest.fixture
def root(tmp_path):
    with registered_at(tmp_path):
        yield tmp_path


@pytest.fixture
def cfg():
    cfg = default_config()
    cfg.MODEL.DENSEPOSE_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (MINIVAL,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (32,), 32
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 2, 0
    return cfg


def ids(records):
    return [record["image_id"] for record in records]


def test_four_data_sets_are_registered_with_all_that_evaluators_ask_for(root):
    for name, (_, folder) in SPLITS.items():
        assert name in DatasetCatalog
        metadata = MetadataCatalog.get(name)
        assert metadata.json_file == str(root / JSON[name])
        assert metadata.image_root == str(root / "coco" / folder)
        assert metadata.thing_classes == GOLDEN["metadata"]["thing_classes"]
        assert metadata.thing_dataset_id_to_contiguous_id == {1: 0}
        table = root / "densepose" / "UV_symmetry_transforms.mat"
        assert metadata.densepose_transform_src == str(table)
        assert metadata.evaluator_type == "densepose"


def test_records_are_upstreams(root, cfg):
    write_json(root / JSON[MINIVAL], GOLDEN["coco_json"])
    records = DatasetCatalog.get(MINIVAL)
    assert ids(records) == GOLDEN["raw_image_ids"]
    kept = keep_for_training(records, cfg)
    assert ids(kept) == GOLDEN["train_image_ids"]
    assert ids(keep_for_testing(records, cfg)) == GOLDEN["test_image_ids"]
    sources = GOLDEN["coco_json"]["annotations"]
    for record, expected in zip(kept, GOLDEN["train_records"], strict=True):
        del expected["dataset"]  # upstream's own note
        people = expected.pop("annotations")
        found = record.pop("annotations")
        assert record == expected | {"file_name": str(root / expected["file_name"])}
        for one, other in zip(found, people, strict=True):
            del other["keypoints"]  # which no data set of DensePose names
            keys = {key for key in DENSEPOSE_KEYS if key in one}
            assert keys == set(other.pop("densepose_keys"))
            values = {key: one.pop(key) for key in keys}
            assert values in [{key: a.get(key) for key in keys} for a in sources]
            assert one == other


def test_segmentations_are_polygons_with_an_area_or_run_lengths(root):
    runs_of_image = runs(np.eye(32, 48))
    square, line, odd = [1.0, 1, 5, 1, 5, 5], [1.0, 1, 5, 5], [1.0, 1, 5, 1, 5, 5, 3]
    given = [[line, square, odd], [line, odd], [], runs_of_image]
    people = [person(n, segmentation=found) for n, found in enumerate(given, start=1)]
    write_data(root, TRAIN, people)
    found = load(TRAIN)[0]["annotations"]
    assert found[0]["segmentation"] == [square]
    assert "segmentation" not in found[1]
    assert "segmentation" not in found[2]
    assert found[3]["segmentation"] == runs_of_image


def test_an_annotation_id_may_come_twice_in_minival_files_only(root):
    for name in SPLITS:
        write_data(root, name, [person(7), person(7, image=2)])
        if "minival" in name:
            assert len(load(name)) == data.check(name).images == 2
        else:
            with pytest.raises(DataError, match=r"train2014.json: two annotations have the"):
                data.check(name)


def test_training_keeps_images_with_somebody_annotated_and_counts_the_others(root, cfg, caplog):
    people = [
        *(person(1, 1, points=0), person(2, 1)),
        person(3, 2, points=0),
        person(4, 3, iscrowd=1),
        person(5, 4, iscrowd=1, points=0),
    ]
    write_data(root, TRAIN, people, images=5)
    with caplog.at_level(logging.INFO, "transfer"):
        assert ids(keep_for_training(load(TRAIN), cfg)) == [1, 3]
        assert ids(keep_for_testing(load(TRAIN), cfg)) == [1, 2, 3, 4]
    assert "2 images to train on; left out: 3 that teach nothing" in caplog.text
    assert "4 images to test on; left out: 1 without anybody" in caplog.text
    cfg.MODEL.MASK_ON = True  # a mask is enough
    assert ids(keep_for_training(load(TRAIN), cfg)) == [1, 2, 3, 4]
    cfg.MODEL.MASK_ON = False
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert ids(keep_for_training(load(TRAIN), cfg)) == [1, 3]
    assert ids(keep_for_testing(load(TRAIN), cfg)) == [1, 2, 3, 4, 5]


def test_the_training_stream_has_densepose_and_goes_on_where_it_stopped(root, cfg):
    people = [person(n, n, points=3 if n % 2 else 0) for n in range(1, 9)]
    write_data(root, TRAIN, people, images=9)
    write_table(root / "densepose" / "UV_symmetry_transforms.mat")
    cfg.INPUT.RANDOM_FLIP = "horizontal"

    def points(start, count):
        loader = stream.Stream(cfg).loader(num_workers=0, start=start)
        for batch in itertools.islice(loader, count):
            for image in batch:
                yield image["image_id"], image["instances"].gt_densepose[0].x.tolist()

    whole = list(points(0, 8))
    assert {image for image, _ in whole} == {1, 3, 5, 7}
    assert {x[0] for _, x in whole} == {10.5, 245.5}
    assert list(points(5, 3)) == whole[10:]


def test_a_test_loader_leaves_out_images_without_anybody(root, cfg):
    write_data(root, MINIVAL, [person(1), person(2, 3, points=0)], images=3)
    cfg.DATALOADER.NUM_WORKERS = 0
    loader = stream.evaluation_loader(cfg, MINIVAL)
    assert isinstance(loader.dataset._map_func._obj, DensePoseMapper)
    assert [image["image_id"] for (image,) in loader] == [1, 3]
    cfg.MODEL.DENSEPOSE_ON = False
    loader = stream.evaluation_loader(cfg, MINIVAL)
    assert [image["image_id"] for (image,) in loader] == [1, 2, 3]
    assert not isinstance(loader.dataset._map_func._obj, DensePoseMapper)


def test_without_densepose_training_takes_every_person_and_no_table(root, cfg):
    write_data(root, TRAIN, [person(1), person(2, 2, points=0)])
    cfg.MODEL.DENSEPOSE_ON, cfg.INPUT.RANDOM_FLIP = False, "horizontal"
    batches = itertools.islice(stream.Stream(cfg).loader(num_workers=0), 4)
    images = [image for batch in batches for image in batch]
    assert {image["image_id"] for image in images} == {1, 2}
    assert not any(image["instances"].has("gt_densepose") for image in images)
    assert images[0]["image"].dtype == torch.uint8


def test_flips_without_a_table_are_found_before_the_training(root, cfg):
    for name in (TRAIN, MINIVAL):
        write_data(root, name, [person(1)])
    datasets = [data.check(TRAIN), data.check(MINIVAL)]
    data.check_config(cfg, datasets)
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    with pytest.raises(DataError, match=r"UV_symmetry_transforms\.mat does not exist"):
        data.check_config(cfg, datasets)


def test_a_data_set_that_is_there_is_counted(root):
    write_data(root, TRAIN, [person(1), person(2, points=0), person(3, 2, iscrowd=1)])
    dataset = data.check(TRAIN)
    assert (dataset.images, dataset.objects, dataset.densepose) == (2, 3, 2)
    assert (dataset.classes, dataset.masks, dataset.bitmasks) == (("person",), True, False)
    assert dataset.annotations == (dataset.place,) == (root / JSON[TRAIN],)
    write_data(root, TRAIN, [person(1, segmentation=[[1, 1, 5, 5]])])
    assert not data.check(TRAIN).masks
    assert "annotation 1: segmentation" in data.check(TRAIN).mask_fault


def test_values_at_the_edges_pass(root):
    edges = {
        "dp_x": [-1, 257.0, 0],
        "dp_y": [257, -1.0, 256],
        "dp_I": [0, 24.0, 1],
        "dp_U": [0, 1, 1.0],
        "dp_V": [1, 0.0, 0],
    }
    full, empty = runs(np.ones((256, 256))), runs(np.zeros((256, 256)))
    noise = runs(np.random.default_rng(0).random((256, 256)) < 0.5)
    people = [
        person(1, **edges),
        person(2, **{key: [] for key in POINT_KEYS}),
        person(3, dp_masks=full),
        person(4, dp_masks=[full, empty, noise, *([] for _ in range(11))]),
    ]
    write_data(root, TRAIN, people)
    assert data.check(TRAIN).objects == 4


NOTHING = object()
BROKEN = runs(np.eye(256))


def in_masks(entry):
    return {"dp_masks": [[], [], entry, *([] for _ in range(11))]}


SIZE = {"size": [256, 256]}
NO_LISTS = "dp_x, dp_y, dp_I, dp_U, dp_V are not five lists of one length"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"dp_V": NOTHING}, "annotation 2 has points without dp_V"),
        ({"dp_x": NOTHING, "dp_I": NOTHING}, "annotation 2 has points without dp_x, dp_I"),
        *(({"dp_U": value}, f"annotation 2: {NO_LISTS}") for value in (None, 0.5, [1.0, 2.0])),
        ({"dp_I": [1, 25, 0]}, "annotation 2: dp_I[1] is 25, not a whole number from 0 to 24"),
        ({"dp_I": [1.5, 2, 3]}, "dp_I[0] is 1.5, not a whole number"),
        ({"dp_U": [0, 1.01, 0]}, "dp_U[1] is 1.01, not a number from 0 to 1"),
        ({"dp_U": [0, 0.5, float("nan")]}, "dp_U[2] is nan, not a number from 0 to 1"),
        ({"dp_V": ["0.5", 0.5, 0]}, "dp_V[0] is '0.5', not a number from 0 to 1"),
        ({"dp_x": [-1.5, 3, 4]}, "dp_x[0] is -1.5, not a number from 0 to 256"),
        ({"dp_masks": None}, "annotation 2: dp_masks is neither 14 entries nor one mapping"),
        ({"dp_masks": [[]] * 13}, "annotation 2: dp_masks is neither 14 entries nor"),
        *(
            (in_masks(entry), "annotation 2: in dp_masks ")
            for entry in (
                "runs",
                {},
                {**BROKEN, "size": [256, 255]},
                SIZE,
                {**SIZE, "counts": [65536]},
                {**SIZE, "counts": ""},
                {**SIZE, "counts": "1é"},
                {**SIZE, "counts": "1o"},  # goes on after its end
                {**SIZE, "counts": BROKEN["counts"][:-1]},
                {**SIZE, "counts": "O1"},  # a negative run
            )
        ),
        ({"dp_masks": {**SIZE, "counts": "11"}}, "is not run lengths of a 256 x 256 mask"),
        ({"id": 1}, "two annotations have the id 1"),
    ],
)
def test_a_wrong_annotation_is_named(changes, part, root):
    wrong = person(2) | changes
    wrong = {key: value for key, value in wrong.items() if value is not NOTHING}
    write_data(root, TRAIN, [person(1, points=2), wrong, person(3)])
    with pytest.raises(DataError) as stopped:
        data.check(TRAIN)
    for said in (TRAIN, str(root / JSON[TRAIN]), part):
        assert said in str(stopped.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"name": "dog"}, "category 1 is dog, not person"), ({"id": 2}, "category 1 is missing, not")],
)
def test_a_category_other_than_person_is_named(change, message, root):
    write_data(root, TRAIN, [person(1)])
    edit_json(root / JSON[TRAIN], lambda content: content["categories"][0].update(change))
    with pytest.raises(DataError, match=message):
        data.check(TRAIN)
