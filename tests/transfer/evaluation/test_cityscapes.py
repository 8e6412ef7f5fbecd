"""Cityscapes' numbers, against Detectron2's evaluator, which lets the scripts match files."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator
from detectron2.structures import Instances
from PIL import Image

from transfer.config import default_config
from transfer.evaluation import build_evaluator

HEIGHT, WIDTH = 60, 90
NAME = "cityscapes_evaluation_test"
CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
CAR, BICYCLE = 26, 33  # their label ids; a train comes from 31 on
ROAD, OUT_OF_ROI = 7, 3


def rectangle(random, low=6, high=30):
    height, width = random.integers(low, high, 2)
    y, x = random.integers(0, HEIGHT - height), random.integers(0, WIDTH - width)
    return slice(y, y + height), slice(x, x + width)


def draw_image(random):
    """Cars and bicycles, some under 100 pixels, groups of them, roads, and what is void."""
    truth = np.full((HEIGHT, WIDTH), OUT_OF_ROI, dtype=np.uint16)
    truth[HEIGHT // 3 :] = ROAD
    for number in range(random.integers(0, 5)):
        label = random.choice([CAR, BICYCLE])
        group = random.random() < 0.2
        truth[rectangle(random)] = label if group else 1000 * label + number
    return truth


def draw_masks(random, truth):
    """Instances a little moved, doubles, groups, noise, an empty one; masks, classes, scores."""
    masks, classes = [np.zeros((HEIGHT, WIDTH), dtype=bool)], [2]
    for value in np.unique(truth[truth >= CAR]):
        label = value // 1000 if value >= 1000 else value
        for _ in range(random.integers(0, 3)):
            masks.append(np.roll(truth == value, random.integers(-2, 3), axis=1))
            classes.append(2 if label == CAR else 7)
    for _ in range(3):
        masks.append(np.zeros((HEIGHT, WIDTH), dtype=bool))
        masks[-1][rectangle(random)] = True
        classes.append(int(random.choice([2, 5, 7])))  # there is no train
    return np.stack(masks), classes, np.round(random.random(len(classes)), 1)  # ties


@pytest.fixture
def registered(tmp_path):
    """Registers a data set of instance maps: a function of {stem: map}."""

    def write(truths):
        for stem, truth in truths.items():
            folder = tmp_path / "gtFine" / stem.split("_")[0]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(truth).save(folder / f"{stem}_gtFine_instanceIds.png")

    MetadataCatalog.get(NAME).set(
        gt_dir=str(tmp_path / "gtFine"), evaluator_type="cityscapes_instance", thing_classes=CLASSES
    )
    DatasetCatalog.register(NAME, list)
    yield write
    DatasetCatalog.pop(NAME)
    MetadataCatalog.pop(NAME)


def results_of(evaluator, predictions):
    evaluator.reset()
    for stem, (masks, classes, scores) in predictions.items():
        found = Instances((HEIGHT, WIDTH))
        found.pred_masks = torch.from_numpy(masks)
        found.pred_classes = torch.tensor(classes, dtype=torch.int64)
        found.scores = torch.tensor(scores)
        file = f"leftImg8bit/val/{stem.split('_')[0]}/{stem}_leftImg8bit.png"
        evaluator.process([{"file_name": file}], [{"instances": found}])
    return evaluator.evaluate()["segm"]


def ours(predictions):
    return results_of(build_evaluator(default_config(), NAME), predictions)


def by_files(predictions, monkeypatch, tmp_path):
    """Detectron2's evaluator; the scripts call what numpy no longer has, and write where we are."""
    numpy = {name: getattr(np, name) for name in dir(np)} | {"in1d": np.isin}
    monkeypatch.setattr(scripts, "np", SimpleNamespace(**numpy))
    monkeypatch.setattr(scripts, "writeDict2JSON", lambda content, path: None)
    monkeypatch.chdir(tmp_path)
    return results_of(CityscapesInstanceEvaluator(NAME), predictions)


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_scripts_on_files(seed, registered, monkeypatch, tmp_path):
    random = np.random.default_rng(seed)
    stems = [f"{city}_000000_{k:06d}" for city in ("ulm", "bonn") for k in range(6)]
    truths = {stem: draw_image(random) for stem in stems}
    registered(truths)
    predictions = {stem: draw_masks(random, truth) for stem, truth in truths.items()}
    found = ours(predictions)
    expected = by_files(predictions, monkeypatch, tmp_path)
    assert found == pytest.approx(expected, rel=0, abs=1e-9)
    assert 5 < found["AP"] < found["AP50"] < 95


def test_predictions_on_void_only_score_zero(registered):
    """Nothing is found and nothing is wrong: there the scripts fail."""
    truth = np.full((HEIGHT, WIDTH), OUT_OF_ROI, dtype=np.uint16)
    truth[40:, 40:] = 1000 * CAR
    registered({"ulm_000000_000000": truth})
    masks = np.zeros((1, HEIGHT, WIDTH), dtype=bool)
    masks[0, :20, :20] = True
    predictions = {"ulm_000000_000000": (masks, [2], [0.5])}
    assert ours(predictions) == {"AP": 0, "AP50": 0}
