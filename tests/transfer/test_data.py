import json

import pytest

from tests.transfer.tiny import coco_at, write_coco
from transfer import data
from transfer.data import DataError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with coco_at(write_coco(tmp_path)):
        yield tmp_path


def fingerprint():
    return data.fingerprint([data.check("coco_2017_train")], [data.check("coco_2017_val")])


def test_a_data_set_that_is_there_is_counted(root):
    dataset = data.check("coco_2017_train")
    assert (dataset.images, dataset.objects) == (6, 12)
    assert "6 images (the official set has 118287)" in data.describe(dataset)


@pytest.mark.parametrize(
    ("path", "fault"),
    [
        ("annotations/instances_val2017.json", "does not exist"),
        ("val2017", "image folder .* does not exist"),
        ("val2017/000000000002.jpg", "image .* does not exist"),
    ],
)
def test_what_is_missing_is_named_with_the_way_out(root, path, fault):
    (root / "coco" / path).rename(root / "elsewhere")
    with pytest.raises(DataError, match=fault) as stopped:
        data.check("coco_2017_val")
    for part in (str(root / "coco" / path), "DETECTRON2_DATASETS", "python -m benchmarks.scenes"):
        assert part in str(stopped.value)


@pytest.mark.parametrize("content", ['{"images": [', '{"images": []}', "[]"])
def test_a_corrupt_annotation_file_is_named(root, content):
    file = root / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(content)
    with pytest.raises(DataError, match=f"{file} is not a COCO file"):
        data.check("coco_2017_val")


def test_an_annotation_file_without_objects_is_refused(root):
    file = root / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(DataError, match="lists 3 images and 0 objects"):
        data.check("coco_2017_val")


def test_an_unregistered_name_gets_the_nearest_one():
    with pytest.raises(DataError, match=r"coco_2017_vall: not a registered.*coco_2017_val"):
        data.check("coco_2017_vall")


def test_the_fingerprint_follows_the_annotations_and_not_the_place(root, tmp_path_factory):
    first = fingerprint()
    assert first["name"] == "other"
    assert (first["train_images"], first["test_images"]) == (6, 3)
    with coco_at(write_coco(tmp_path_factory.mktemp("copy"))):
        assert fingerprint() == first
    file = root / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text() + " ")
    assert fingerprint()["sha256"] != first["sha256"]


def test_scenes_are_known_by_their_file(root):
    (root / "scenes.json").write_text("{}")
    assert fingerprint()["name"] == "scenes"


def test_official_counts_make_it_official(root, monkeypatch):
    counts = {"coco_2017_train": 6, "coco_2017_val": 3}
    monkeypatch.setattr(data, "OFFICIAL_IMAGES", counts)
    assert fingerprint()["name"] == "official"
    assert "the official set" not in data.describe(data.check("coco_2017_val"))
