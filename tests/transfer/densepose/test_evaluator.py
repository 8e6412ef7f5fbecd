"""The evaluator from model outputs, against golden numbers."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from tests.transfer.densepose.cases import GOLDEN, MAPS, load, load_json, write_surface
from transfer.config import resolve
from transfer.densepose.chart import ChartOutputs
from transfer.densepose.evaluator import PREDICTIONS, DensePoseEvaluator
from transfer.densepose.matching import MEASURES
from transfer.evaluation import densepose as evaluation

NAME = "densepose_evaluation_test"
RAW = load("evalraw")
SIZE = (240, 320)
IMAGES = range(1, 7)


def register(json_file=GOLDEN / "densepose_evalraw_gt.json"):
    MetadataCatalog.get(NAME).set(
        json_file=str(json_file),
        thing_classes=["person"],
        thing_dataset_id_to_contiguous_id={1: 0},
    )


@pytest.fixture(autouse=True)
def registered():
    register()
    yield
    MetadataCatalog.pop(NAME)


@pytest.fixture(scope="module")
def surface(tmp_path_factory):
    return write_surface(tmp_path_factory.mktemp("surface"), RAW, prefix="mesh_")


def as_model_output(image):
    """What the model says about a golden image."""
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor(RAW[f"im{image}_boxes"]))
    found.scores = torch.tensor(RAW[f"im{image}_scores"])
    found.pred_classes = torch.zeros(len(found), dtype=torch.int64)
    maps = (torch.from_numpy(RAW[f"im{image}_{name}"]).float() for name in MAPS)
    found.pred_densepose = ChartOutputs(*maps)
    return found


def process(evaluator, images, change=lambda found: found):
    for image in images:
        output = {"instances": change(as_model_output(image))}
        evaluator.process([{"image_id": image}], [output])


def evaluate(surface, images=IMAGES, change=lambda found: found, **options):
    evaluator = DensePoseEvaluator(NAME, surface, **options)
    evaluator.reset()
    process(evaluator, images, change)
    return evaluator.evaluate()


def without_densepose(found):
    found.remove("pred_densepose")
    return found


def test_results_are_upstreams(surface):
    golden, found = load_json("evalraw_results"), evaluate(surface)
    assert list(found) == list(MEASURES)
    for measure, numbers in found.items():
        assert list(numbers) == list(golden[measure])
        assert numbers == pytest.approx(golden[measure], rel=0, abs=0.01)


def test_ids_are_names(surface, tmp_path):
    truth, expected = load_json("evalraw_gt"), evaluate(surface)
    for number, person in enumerate(truth["annotations"]):
        person["id"] = f"person {number}" if number % 2 else None
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    MetadataCatalog.pop(NAME)
    register(tmp_path / "truth.json")
    assert evaluate(surface) == expected


def test_pairs_are_upstreams(surface):
    evaluator = DensePoseEvaluator(NAME, surface)
    evaluator.reset()
    process(evaluator, IMAGES)
    boxes = {image: RAW["pred_order_image_id"] == image for image in IMAGES}
    people = load_json("evalraw_gt")["annotations"]
    for number, (image_id, detection, person) in enumerate(
        zip(RAW["pair_image_id"], RAW["pair_dt_id"], RAW["pair_gt_id"], strict=True)
    ):
        # Upstream's ids go through all detections, in the order of the model.
        place = detection - 1 - np.flatnonzero(boxes[image_id])[0]
        by_score = np.argsort(-RAW[f"im{image_id}_scores"], kind="stable").tolist()
        own = [p["id"] for p in people if p["image_id"] == image_id]
        pair = by_score.index(place), own.index(person)
        found = evaluator._found[image_id][0]
        for name in ("gps", "mask_iou", "box_iou"):
            value = getattr(found, name)[pair]
            assert value == pytest.approx(RAW[f"pair_{name}"][number], rel=0, abs=1e-3)


def test_predictions_are_saved_as_upstreams(surface, tmp_path):
    evaluate(surface, output_dir=tmp_path / "output")
    saved = torch.load(tmp_path / "output" / PREDICTIONS, weights_only=True)
    golden = load_json("evalraw_results")
    ends = 3 * RAW["pred_quantized_hw"].prod(axis=1).cumsum()
    maps = np.split(RAW["pred_quantized"], ends[:-1])
    assert len(saved) == len(maps) == 9
    for record in saved:
        assert sorted(record) == golden["pred_keys"]
        boxes = np.abs(RAW["pred_bbox"] - record["bbox"]).max(axis=1)
        (row,) = np.flatnonzero((RAW["pred_order_image_id"] == record["image_id"]) & (boxes < 1e-6))
        assert record["category_id"] == RAW["pred_category_id"][row]
        chart_map = record["densepose"].numpy()
        assert chart_map.dtype == np.uint8
        expected = maps[row].reshape(3, *RAW["pred_quantized_hw"][row])
        assert (chart_map[0] != expected[0]).mean() <= 1e-3
        same = chart_map[0] == expected[0]
        error = np.abs(chart_map[:, same].astype(int) - expected[:, same])
        assert error.max() <= 1
        assert (error > 0).mean() <= 1e-3
        assert record["segmentation"] == golden["pred_segmentation"][row]
    ids = [record["image_id"] for record in saved]
    assert ids == sorted(ids)
    json.dumps([{k: v for k, v in record.items() if k != "densepose"} for record in saved])
    assert [path.name for path in (tmp_path / "output").iterdir()] == [PREDICTIONS]


def test_order_and_repetition_of_images_and_order_of_detections_do_not_matter(surface):
    expected = evaluate(surface)
    backwards = evaluate(surface, change=lambda found: found[[*range(len(found))][::-1]])
    assert backwards == expected
    assert evaluate(surface, [6, 2, 4, 1, 3, 5]) == expected
    assert evaluate(surface, [1, 2, 2, 3, 1, 4, 5, 6, 6]) == expected


def test_only_the_twenty_best_detections_count(surface):
    def with_doubles(found):
        """Twenty more of the best detection's box, less sure than all others."""
        best = int(found.scores.argmax())
        with_doubles = found[[*range(len(found)), *[best] * 20]]
        with_doubles.scores[len(found) :] = 1e-3
        return with_doubles

    evaluator = DensePoseEvaluator(NAME, surface)
    evaluator.reset()
    process(evaluator, [1], with_doubles)
    scores = np.sort(RAW["im1_scores"])[::-1]
    image, _ = evaluator._found[1]
    assert image.gps.shape[0] == 20
    np.testing.assert_allclose(image.scores[: len(scores)], scores)


def test_an_image_that_was_not_predicted_counts_with_its_persons(surface):
    found, expected = evaluate(surface, [1, 2, 3]), evaluate(surface)
    silent = evaluate(surface, change=lambda found: found if len(found) == 2 else found[:0])
    assert found["densepose_gps"]["AR50"] < expected["densepose_gps"]["AR50"]
    assert found == silent  # images 4, 5, 6 have one detection


@pytest.mark.parametrize("change", [without_densepose, lambda found: found[:0]])
def test_without_predictions_all_numbers_are_minus_1(surface, tmp_path, change):
    results = evaluate(surface, change=change, output_dir=tmp_path)
    assert list(results) == list(MEASURES)
    for numbers in results.values():
        assert numbers == dict.fromkeys(numbers, -1)
    assert torch.load(tmp_path / PREDICTIONS, weights_only=True) == []


@pytest.mark.parametrize("root", ["data", "/data"])
def test_the_surface_is_where_the_data_set_or_the_config_says(monkeypatch, root):
    monkeypatch.setenv("DETECTRON2_DATASETS", root)
    monkeypatch.setattr(evaluation, "DensePoseEvaluator", lambda _, folder, **__: str(folder))

    def folder(*words):
        cfg = resolve("configs/transfer/densepose/densepose_rcnn_R_50_FPN_s1x.yaml", None, words)
        return evaluation.densepose_evaluators(cfg, NAME)._evaluators[1]

    assert folder() == f"{root}/densepose"
    assert folder("TRANSFER.SURFACE", "mine") == f"{root}/mine"
    MetadataCatalog.get(NAME).densepose_surface = f"{root}/theirs"
    assert folder() == f"{root}/theirs"
    assert folder("TRANSFER.SURFACE", "/mine") == "/mine"
