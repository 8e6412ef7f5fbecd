from dataclasses import replace

import pytest
from detectron2.data import MetadataCatalog

from pretrain.runtime.config import REPOSITORY, ConfigError
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


def test_data_that_are_not_there_are_named_with_the_way_out(root):
    file = root / "coco" / "annotations" / "instances_val2017.json"
    file.unlink()
    with pytest.raises(DataError) as stopped:
        data.check("coco_2017_val")
    for part in (file, root, "DETECTRON2_DATASETS", "DATA.md", "python -m benchmarks.scenes"):
        assert str(part) in str(stopped.value)


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


def test_a_fingerprint_says_whether_the_data_are_official_scenes_or_others(root, monkeypatch):
    found = fingerprint()
    assert (found["name"], found["train_images"], found["test_images"]) == ("other", 6, 3)
    assert "3 images (the official set has 5000)" in data.describe(data.check("coco_2017_val"))
    counts = {"coco_2017_train": 6, "coco_2017_val": 3}
    monkeypatch.setattr(data, "OFFICIAL_IMAGES", counts)
    assert fingerprint()["name"] == "official"
    assert "the official set" not in data.describe(data.check("coco_2017_val"))
    (root / "scenes.json").write_text("{}")
    assert fingerprint()["name"] == "scenes"
