from dataclasses import replace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.runtime.config import REPOSITORY, ConfigError
from tests.transfer.data.tiny_layouts import edit_json
from tests.transfer.tiny import data_sets_at, write_coco
from transfer import data
from transfer.config import resolve
from transfer.data import DataError
from transfer.tasks import TASKS


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with data_sets_at(write_coco(tmp_path)):
        yield tmp_path


def fingerprint():
    return data.fingerprint([data.check("coco_2017_train")], [data.check("coco_2017_val")])


def test_a_data_set_that_is_there_is_counted(root):
    dataset = data.check("coco_2017_train")
    assert (dataset.images, dataset.objects) == (6, 12)
    assert "6 images (the official set has 118287)" in data.describe(dataset)


def test_data_that_are_not_there_are_named_with_the_way_out(root):
    file = root / "coco" / "annotations" / "instances_val2017.json"
    file.unlink()
    with pytest.raises(DataError) as stopped:
        data.check("coco_2017_val")
    for part in (file, root, "DETECTRON2_DATASETS", "DATA.md", "python -m benchmarks.scenes"):
        assert str(part) in str(stopped.value)


def test_categories_that_are_not_the_task_s_are_named(root):
    def rename(content):
        content["categories"][1]["name"] = "bike"

    file = root / "coco" / "annotations" / "instances_val2017.json"
    edit_json(file, rename)
    with pytest.raises(DataError, match="category 2 is bike, in the task it is bicycle"):
        data.check("coco_2017_val")


def test_a_layout_without_a_check_stops_with_the_known_ones(root):
    MetadataCatalog.get("own_layout").evaluator_type = "own"
    DatasetCatalog.register("own_layout", list)
    try:
        with pytest.raises(DataError, match=r"known: coco, lvis.*transfer\.data\.CHECKS"):
            data.check("own_layout")
    finally:
        DatasetCatalog.pop("own_layout")
        MetadataCatalog.pop("own_layout")


def test_training_and_test_data_of_different_classes_are_refused(root):
    train = data.check("coco_2017_train")
    test = replace(train, name="other", classes=(*train.classes[:-1], "dinosaur"))
    cfg = resolve(TASKS["coco_fpn"].config)
    with pytest.raises(ConfigError, match=r"different classes \(dinosaur, toothbrush\)"):
        data.check_config(cfg, [train, test])


def test_every_data_set_of_a_task_has_a_check_and_a_published_count_which_data_md_has():
    page = (REPOSITORY / "DATA.md").read_text()
    for task in TASKS.values():
        datasets = resolve(task.config).DATASETS
        for name in (*datasets.TRAIN, *datasets.TEST):
            assert MetadataCatalog.get(name).evaluator_type in data.CHECKS
            assert f"`{name}`" in page
            assert f"{data.OFFICIAL_IMAGES[name]:,}" in page


def test_an_unregistered_name_gets_the_nearest_one():
    with pytest.raises(DataError, match=r"coco_2017_vall: not a registered.*coco_2017_val"):
        data.check("coco_2017_vall")


def test_fingerprints_count_the_images(root):
    found = fingerprint()
    assert (found["name"], found["train_images"], found["test_images"]) == ("other", 6, 3)


def test_scenes_are_known_by_their_file(root):
    (root / "scenes.json").write_text("{}")
    assert fingerprint()["name"] == "scenes"


def test_official_counts_make_it_official(root, monkeypatch):
    counts = {"coco_2017_train": 6, "coco_2017_val": 3}
    monkeypatch.setattr(data, "OFFICIAL_IMAGES", counts)
    assert fingerprint()["name"] == "official"
    assert "the official set" not in data.describe(data.check("coco_2017_val"))
