import json

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.runtime.config import ConfigError
from tests.transfer.evaluation.coco_results import evaluate, registered
from transfer.config import default_config
from transfer.evaluation import build_evaluator, evaluate_coco

HEIGHT, WIDTH, IMAGES = 240, 320, 24
CATEGORY_IDS = (1, 4, 17)


def rectangle(box, random):
    """The RLE of a box with ragged edges."""
    x, y, w, h = (int(value) for value in box)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    mask *= random.random(mask.shape) > 0.1
    rle = masks.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def label_of(rle, box, crowd):
    """A mask as COCO's files have it: runs for a crowd, polygons for some, RLE for others."""
    if crowd:
        pixels = np.concatenate([[0], masks.decode(rle).ravel(order="F"), [2]])
        starts = np.flatnonzero(np.diff(pixels.astype(int)))
        return {"size": rle["size"], "counts": np.diff(starts, prepend=0).tolist()}
    x, y, w, h = box
    if w > h:
        return [[x, y, x + w / 2, y, x + w / 2, y + h], [x + w / 2, y, x + w, y, x + w, y + h]]
    return rle


def draw_box(random):
    size = np.exp(random.uniform(np.log(6), np.log(200), 2))  # all three area ranges
    w, h = min(size[0], WIDTH - 2), min(size[1], HEIGHT - 2)
    return [random.uniform(0, WIDTH - w - 1), random.uniform(0, HEIGHT - h - 1), w, h]


@pytest.fixture(scope="module")
def truth():
    """Random ground truth with crowds, and images without any."""
    random = np.random.default_rng(3)
    annotations = []
    for image in range(1, IMAGES + 1):
        for _ in range(0 if image % 8 == 0 else random.integers(1, 7)):
            box, crowd = draw_box(random), random.random() < 0.15
            segmentation = label_of(rectangle(box, random), box, crowd)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.choice(CATEGORY_IDS)),
                    "bbox": box,
                    "area": 0.9 * box[2] * box[3],
                    "segmentation": segmentation,
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {},
        "images": [{"id": k, "height": HEIGHT, "width": WIDTH} for k in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in CATEGORY_IDS],
    }


@pytest.fixture(scope="module")
def detections(truth):
    """Shifted ground truth, doubles and noise; image 5 has none, image 6 more than 100."""
    random = np.random.default_rng(4)
    found = []
    for annotation in truth["annotations"]:
        image = annotation["image_id"]
        for _ in range(0 if image == 5 else 40 if image == 6 else random.integers(0, 4)):
            box = np.array(annotation["bbox"]) + random.normal(0, 2, 4)
            box[2:] = np.maximum(box[2:], 3)
            box[:2] = np.clip(box[:2], 0, (WIDTH - 5, HEIGHT - 5))
            wrong = random.random() < 0.2
            found.append(
                {
                    "image_id": image,
                    "category_id": 4 if wrong else annotation["category_id"],
                    "bbox": box.tolist(),
                    "score": round(float(random.random()), 2),  # ties are likely
                    "segmentation": rectangle(box, random),
                }
            )
    return found


def reference(truth, results, iou_type):
    """pycocotools' 12 numbers; masks without boxes beside them, as Detectron2 gives them."""
    api = COCO()
    api.dataset = json.loads(json.dumps(truth))
    api.createIndex()
    drop = "bbox" if iou_type == "segm" else "segmentation"
    results = [{key: value for key, value in r.items() if key != drop} for r in results]
    evaluation = COCOeval(api, api.loadRes(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_twelve_numbers_equal_pycocotools(truth, detections, iou_type):
    expected = reference(truth, detections, iou_type)
    found = evaluate_coco(truth, detections, iou_type).stats[:12]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert 0.02 < found[0] < 0.95


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_an_area_range_without_objects_gives_minus_one(truth, detections, iou_type):
    small = truth | {"annotations": [a for a in truth["annotations"] if a["area"] < 1000]}
    expected = reference(small, detections, iou_type)
    found = evaluate_coco(small, detections, iou_type).stats[:12]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found[5] == -1


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_no_detection_at_all_scores_zero(truth, iou_type):
    assert (evaluate_coco(truth, [], iou_type).stats[:12] == 0).all()


@pytest.fixture
def name(truth, tmp_path):
    with registered(truth, tmp_path) as known:
        yield known


def test_evaluator_gives_what_detectron2_gives_with_pycocotools(name, truth, detections):
    cfg = default_config()
    cfg.MODEL.MASK_ON = True
    ours = evaluate(build_evaluator(cfg, name), truth, detections)
    theirs = evaluate(COCOEvaluator(name, use_fast_impl=False), truth, detections)
    assert list(ours) == list(theirs) == ["bbox", "segm"]
    for iou_type, expected in theirs.items():
        assert ours[iou_type] == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


def test_a_model_without_masks_is_judged_by_its_boxes(name, truth, detections):
    results = evaluate(build_evaluator(default_config(), name), truth, detections)
    assert list(results) == ["bbox"]


def test_a_silent_model_scores_zero(name, truth):
    results = evaluate(build_evaluator(default_config(), name), truth, [])
    assert results["bbox"]["AP"] == 0


def test_a_layout_without_evaluator_says_which_there_are(name):
    MetadataCatalog.pop(name)
    MetadataCatalog.get(name).evaluator_type = "mine"
    with pytest.raises(ConfigError, match=r"evaluator_type mine has no .*coco, lvis, cityscapes_"):
        build_evaluator(default_config(), name)
