"""LVIS's numbers, against golden ones and against the lvis package."""

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as masks

from tests.transfer.evaluation.coco_results import draw_box, draw_rle
from transfer.evaluation import evaluate_lvis

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")

GOLDEN = Path(__file__).parents[2] / "golden"
SIZE = HEIGHT, WIDTH = 60, 80


def by_the_lvis_package(dataset, results, iou_type, tmp_path):
    """The nine numbers in percent, -1 as NaN; the package needs a numpy with ``np.float``."""
    from lvis import LVIS, LVISEval, LVISResults

    file = tmp_path / "truth.json"
    file.write_text(json.dumps(dataset))
    # With boxes beside masks, the package would take the area of the box.
    drop = "bbox" if iou_type == "segm" else "segmentation"
    results = [{key: value for key, value in r.items() if key != drop} for r in results]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)
        truth = LVIS(str(file))
        evaluation = LVISEval(truth, LVISResults(truth, results, max_dets=300), iou_type)
        evaluation.run()
    numbers = {name: evaluation.get_results()[name] for name in NAMES}
    return {name: 100 * value if value >= 0 else math.nan for name, value in numbers.items()}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_golden_numbers(iou_type):
    dataset = json.loads((GOLDEN / "lvis_eval_gt.json").read_text())
    expected = json.loads((GOLDEN / "lvis_eval_expected.json").read_text())
    assert max(Counter(d["image_id"] for d in expected["detections"]).values()) > 300
    found = evaluate_lvis(dataset, expected["detections"], iou_type)
    for name, value in found.items():
        golden = expected["results"][iou_type][name]
        assert value == pytest.approx(
            100 * golden if golden >= 0 else math.nan, abs=1e-4, nan_ok=True
        )


def draw_case(seed, images=12, categories=8, frequencies="rcf", crowded=False):
    """Ground truth and detections: ties, doubles, images without either, federated labels."""
    random = np.random.default_rng(seed)
    ids = [int(k) for k in 3 * np.arange(categories) + 2]
    dataset = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": k, "name": f"c{k}", "frequency": frequencies[i % len(frequencies)]}
            for i, k in enumerate(ids)
        ],
    }
    results = []
    for image in range(1, images + 1):
        present = random.choice(ids[:-1], random.integers(0, 4), replace=False)
        absent = [k for k in ids if k not in present and random.random() < 0.4]
        partial = [int(k) for k in present if random.random() < 0.3]
        dataset["images"].append(
            {
                "id": image,
                "height": HEIGHT,
                "width": WIDTH,
                "neg_category_ids": absent,
                "not_exhaustive_category_ids": partial,
            }
        )
        for category in present:
            for _ in range(random.integers(1, 4)):
                box = draw_box(random, SIZE, 4, 50)
                dataset["annotations"].append(
                    {
                        "id": len(dataset["annotations"]) + 1,
                        "image_id": image,
                        "category_id": int(category),
                        "bbox": box,
                        "area": float(masks.area(rle := draw_rle(random, SIZE, box))),
                        "segmentation": rle,
                    }
                )
                for _ in range(random.integers(0, 3)):
                    near = np.array(box) + random.normal(0, 1.5, 4)
                    near[:2] = np.clip(near[:2], 0, (WIDTH - 6, HEIGHT - 6))
                    near[2:] = np.clip(near[2:], 4, (WIDTH - near[0], HEIGHT - near[1]))
                    results.append(detection(random, image, category, near))
        for _ in range(330 if crowded and image == 2 else random.integers(0, 5)):
            results.append(
                detection(random, image, random.choice(ids), draw_box(random, SIZE, 4, 50))
            )
    return dataset, results


def detection(random, image, category, box):
    return {
        "image_id": image,
        "category_id": int(category),
        "bbox": [float(value) for value in box],
        "score": round(float(random.random()), 2),  # ties are likely
        "segmentation": draw_rle(random, SIZE, box),
    }


def equals_the_package(dataset, results, iou_type, tmp_path):
    found = evaluate_lvis(dataset, results, iou_type)
    expected = by_the_lvis_package(dataset, results, iou_type, tmp_path)
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert 0 < found["AP"] < 100
    return found


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_equals_the_lvis_package(seed, iou_type, tmp_path):
    """Also with more than 300 detections, and without objects of a frequency."""
    crowded, frequencies = seed % 2 == 1, "cf" if seed == 4 else "rcf"
    dataset, results = draw_case(seed, crowded=crowded, frequencies=frequencies)
    found = equals_the_package(dataset, results, iou_type, tmp_path)
    assert math.isnan(found["APr"]) == (seed == 4)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_labels_that_coco_reads_otherwise_equal_the_lvis_package(iou_type, tmp_path):
    dataset, results = draw_case(5, images=30)
    usual = evaluate_lvis(dataset, results, iou_type)
    empty = draw_rle(np.random.default_rng(0), SIZE, (0, 0, 0, 0))
    for number, annotation in enumerate(dataset["annotations"]):
        annotation["iscrowd"] = int(number % 3 == 0)  # LVIS has no crowds
        annotation["ignore"] = int(number % 5 == 0)
        annotation["area"] *= number % 7 != 0  # an area of 0 is no object
    for number, result in enumerate(results):
        if number % 4 == 0:  # nor is it a detection
            result["bbox"][2], result["segmentation"] = 0.0, empty
    assert equals_the_package(dataset, results, iou_type, tmp_path)["AP"] != usual["AP"]


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_three_hundred_detections_of_one_class_equal_the_lvis_package(iou_type, tmp_path):
    dataset, results = draw_case(6)
    random, thing = np.random.default_rng(7), dataset["annotations"][0]
    image, category = thing["image_id"], thing["category_id"]
    results += [detection(random, image, category, thing["bbox"]) for _ in range(310)]
    equals_the_package(dataset, results, iou_type, tmp_path)
