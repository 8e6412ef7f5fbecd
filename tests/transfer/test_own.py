"""Tasks of one's own: a YAML with its data sets, or a Python file given with --import."""

import json
import re

import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.runtime.config import REPOSITORY, ConfigError
from tests.transfer.tiny import FAST, SCENES, write_coco
from transfer import data, own
from transfer.__main__ import main
from transfer.config import config_sha256, resolve
from transfer.evaluation import EVALUATORS
from transfer.tasks import TASKS, Task

pytestmark = pytest.mark.usefixtures("one_thread")
README = (REPOSITORY / "README.md").read_text()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two splits in COCO's format, and DETECTRON2_DATASETS that names their folder."""
    write_coco(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


@pytest.fixture(autouse=True)
def nothing_stays():
    """What a test registers is gone after it."""
    before = {name: set(known) for name, known in catalogs().items()}
    yield
    for name, known in catalogs().items():
        for entry in set(known) - before[name]:
            known.pop(entry)


def catalogs():
    return {
        "data": DatasetCatalog,
        "metadata": MetadataCatalog,
        "tasks": TASKS,
        "checks": data.CHECKS,
        "evaluators": EVALUATORS,
    }


def write_task(path, datasets=None, metrics=("segm/AP75", "bbox/AP"), **more):
    """A YAML on coco_fpn's config, whose data are those of ``root`` under other names."""
    if datasets is None:
        datasets = {
            f"own_{split}": {
                "JSON": f"coco/annotations/instances_{split}2017.json",
                "IMAGES": f"coco/{split}2017",
            }
            for split in ("train", "val")
        }
    tree = {
        "_BASE_": TASKS["coco_fpn"].config,
        "VERSION": 2,
        "TRANSFER": {"DATASETS": datasets, "METRICS": list(metrics)},
        "DATASETS": {"TRAIN": ["own_train"], "TEST": ["own_val"]},
    }
    path.write_text(yaml.safe_dump(tree | more))
    return path


def fine_tune(config, output, *flags, workers=0):
    words = ["--config-file", str(config), "--weights", "random", "--output", str(output)]
    more = ["DATALOADER.NUM_WORKERS", str(workers)]
    return main([*flags, *words, "--overlay", SCENES, *FAST, *more])


def test_a_yaml_with_data_and_metrics_is_a_task(root, capsys):
    config = write_task(root / "my_cells.yaml")
    assert fine_tune(config, root / "run") == 0
    result = json.loads((root / "run" / "metrics.json").read_text())
    assert (result["task"], result["main_metric"]) == ("my_cells", "segm/AP75")
    assert list(result["metrics"]) == ["segm/AP75", "bbox/AP"]
    assert result["data"]["name"] == "other"
    assert (result["data"]["train_images"], result["data"]["test_images"]) == (6, 3)

    assert main(["--check-data", "--config-file", str(config)]) == 0
    assert "own_val: 3 images, 6 objects, 80 classes" in capsys.readouterr().out


def test_an_image_that_is_cut_short_is_one_line_also_from_a_process_of_the_loader(root, capsys):
    for file in (root / "coco" / "train2017").iterdir():
        file.write_bytes(file.read_bytes()[:-200])
    assert fine_tune(write_task(root / "my_cells.yaml"), root / "run", workers=1) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert re.match(r"error: \S+/train2017/0+\d.jpg is not a readable image \(", said)
    assert "Traceback" not in said
    assert not (root / "run" / "metrics.json").exists()


def test_the_readme_shows_one_in_fifteen_lines_and_it_resolves(tmp_path):
    text = re.search(r"```yaml\n(# my_task\.yaml.*?)```", README, re.DOTALL)[1]
    assert len(text.strip().splitlines()) <= 15
    (tmp_path / "my_task.yaml").write_text(text)
    cfg = resolve(tmp_path / "my_task.yaml")
    own.register_datasets(cfg, "my_task.yaml")
    assert {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} == set(cfg.TRANSFER.DATASETS)
    task = own.check_metrics(cfg, Task("my_task.yaml"))
    assert task.main_metric == task.metrics[0]


PLACE = {"JSON": "a.json", "IMAGES": "a"}


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"own_val": {"JSON": "a.json"}}, "own_val: expected {JSON: file, IMAGES: folder}, found"),
        ({"own_val": "a.json"}, "own_val: expected {JSON: file, IMAGES: folder}, found a.json"),
        ({"coco_2017_val": PLACE}, "another data set has that name"),
    ],
)
def test_a_data_set_that_is_not_well_described_is_named(datasets, message, root):
    cfg = resolve(write_task(root / "my.yaml", datasets))
    with pytest.raises(ConfigError, match=re.escape(message)):
        own.register_datasets(cfg, "my.yaml")


def test_metrics_that_the_model_cannot_have_stop_before_the_training(root):
    cfg = resolve(write_task(root / "my.yaml", metrics=["bbox/AP", "keypoints/AP"]))
    with pytest.raises(ConfigError, match="KEYPOINT_ON False there is no keypoints/AP"):
        own.check_metrics(cfg, Task("my.yaml"))
    cfg = resolve(TASKS["coco_fpn"].config, overrides=["MODEL.MASK_ON", "False"])
    with pytest.raises(ConfigError, match="MASK_ON False there is no segm/AP"):
        own.check_metrics(cfg, TASKS["coco_fpn"])


def test_a_file_called_as_a_task_is_refused(root, capsys):
    assert fine_tune(write_task(root / "coco_fpn.yaml"), root / "run") == 2
    assert "a task is called coco_fpn" in capsys.readouterr().err


def test_an_imported_file_may_add_a_task(root, capsys):
    config = write_task(root / "my_cells.yaml", metrics=())
    file = root / "my_task.py"
    file.write_text(
        "from transfer.tasks import TASKS, Task\n"
        f"TASKS['cells'] = Task({str(config)!r}, ('bbox/AP50',), 'bbox/AP50')\n"
    )
    assert main(["--import", str(file), "--list"]) == 0
    assert f"cells: {config}, ranked by bbox/AP50" in capsys.readouterr().out
    assert TASKS["cells"] == Task(str(config), ("bbox/AP50",), "bbox/AP50")


def test_a_layout_without_check_says_where_to_add_one(root, capsys):
    config = write_task(
        root / "my.yaml", metrics=(), DATASETS={"TRAIN": ["own_train"], "TEST": ["mine"]}
    )
    file = root / "my_task.py"
    file.write_text(
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "DatasetCatalog.register('mine', list)\n"
        "MetadataCatalog.get('mine').evaluator_type = 'ours'\n"
    )
    assert fine_tune(config, root / "run", "--import", str(file)) == 2
    assert "may add to transfer.data.CHECKS" in capsys.readouterr().err


def test_a_flip_map_with_a_name_in_two_places_is_refused():
    entry = {"JSON": "a.json", "IMAGES": "a", "FLIP_MAP": [["x", "y"], ["x", "z"]]}
    overrides = ["TRANSFER.DATASETS", repr({"own_twice": entry})]
    cfg = resolve(TASKS["keypoints_fpn"].config, overrides=overrides)
    with pytest.raises(ConfigError, match="own_twice: FLIP_MAP has x in two places"):
        own.register_datasets(cfg, "own.yaml")


def test_another_flip_map_is_another_experiment():
    hashes = set()
    for flips in ([], [["x", "y"]]):
        entry = {"JSON": "a.json", "IMAGES": "a", "FLIP_MAP": flips}
        overrides = ["TRANSFER.DATASETS", repr({"own_hashed": entry})]
        cfg = resolve(TASKS["keypoints_fpn"].config, overrides=overrides)
        hashes.add(config_sha256(cfg))
    assert len(hashes) == 2
