"""COCO's numbers of boxes, masks and keypoints, against pycocotools."""

import json

import numpy as np
import pytest
from detectron2.evaluation import COCOEvaluator
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.runtime.config import ConfigError
from tests.transfer.evaluation.coco_results import draw_box, draw_rle, evaluate, registered
from transfer.config import default_config
from transfer.evaluation import build_evaluator, evaluate_coco

SIZE, IMAGES, POINTS = (240, 320), 24, 17
CATEGORY_IDS = (1, 4, 17)
GIVEN = {"bbox": ("bbox",), "segm": ("segmentation",), "keypoints": ("bbox", "keypoints")}


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


def triples(points, third):
    return np.column_stack([points, third]).ravel().tolist()


@pytest.fixture(scope="module")
def truth():
    """Objects of all area ranges, some without keypoints, crowds; images without any."""
    random = np.random.default_rng(3)
    annotations = []
    for image in range(1, IMAGES + 1):
        for _ in range(0 if image % 8 == 0 else random.integers(1, 7)):
            box = draw_box(random, SIZE, 6, 200)
            crowd, blank = random.random(2) < (0.15, 0.2)
            points = random.uniform(box[:2], np.add(box[:2], box[2:]), (POINTS, 2)).round()
            marks = np.zeros(POINTS) if crowd or blank else random.integers(0, 3, POINTS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(random.choice(CATEGORY_IDS)),
                    "bbox": box,
                    "area": 0.9 * box[2] * box[3],
                    "segmentation": label_of(draw_rle(random, SIZE, box), box, crowd),
                    "iscrowd": int(crowd),
                    "keypoints": triples(points, marks),
                    "num_keypoints": int((marks > 0).sum()),
                }
            )
    return {
        "info": {},
        "images": [{"id": k, "height": SIZE[0], "width": SIZE[1]} for k in range(1, IMAGES + 1)],
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
            box[:2] = np.clip(box[:2], 0, (SIZE[1] - 5, SIZE[0] - 5))
            points = np.array(annotation["keypoints"]).reshape(POINTS, 3)[:, :2]
            points = points + random.normal(0, 0.05 * annotation["area"] ** 0.5, points.shape)
            wrong = random.random() < 0.2
            found.append(
                {
                    "image_id": image,
                    "category_id": 4 if wrong else annotation["category_id"],
                    "bbox": box.tolist(),
                    "score": round(float(random.random()), 2),  # ties are likely
                    "segmentation": draw_rle(random, SIZE, box),
                    "keypoints": triples(points, np.ones(POINTS)),
                }
            )
    return found


def reference(truth, results, iou_type):
    """pycocotools' 12 or 10 numbers, of what Detectron2 gives it."""
    api = COCO()
    api.dataset = json.loads(json.dumps(truth))
    api.createIndex()
    given = ("image_id", "category_id", "score", *GIVEN[iou_type])
    evaluation = COCOeval(api, api.loadRes([{k: r[k] for k in given} for r in results]), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("iou_type", GIVEN)
@pytest.mark.parametrize("largest", [np.inf, 1000])
def test_numbers_equal_pycocotools(iou_type, largest, truth, detections):
    truth = truth | {"annotations": [a for a in truth["annotations"] if a["area"] < largest]}
    expected = reference(truth, detections, iou_type)
    found = evaluate_coco(truth, detections, iou_type).stats[: len(expected)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert 0 < found[0] < 0.95
    assert (found == -1).any() == (largest == 1000)  # ranges of areas without objects


NAMINGS = {
    "from 0": lambda number: number - 1,
    "text": lambda number: f"obj-{number:04d}",
    "negative": lambda number: -number,
    "fractions": lambda number: number + 0.5,
    "huge": lambda number: 2**70 + number,
    "one for all": lambda number: 7,
    "none": lambda number: None,
}


@pytest.mark.parametrize("iou_type", GIVEN)
@pytest.mark.parametrize("naming", NAMINGS)
def test_ids_of_annotations_are_names(iou_type, naming, truth, detections):
    expected = evaluate_coco(truth, detections, iou_type).stats
    named = [a | {"id": NAMINGS[naming](a["id"])} for a in truth["annotations"]]
    found = evaluate_coco(truth | {"annotations": named}, detections, iou_type).stats
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("naming", ["text", "fractions", "huge"])
def test_ids_of_images_and_categories_are_names(naming, truth, detections):
    def rename(entries):
        keys = ("image_id", "category_id")
        return [e | {key: NAMINGS[naming](e[key]) for key in keys} for e in entries]

    renamed = {"annotations": rename(truth["annotations"])}
    for section in ("images", "categories"):
        renamed[section] = [e | {"id": NAMINGS[naming](e["id"])} for e in truth[section]]
    expected = evaluate_coco(truth, detections, "bbox").stats
    found = evaluate_coco(truth | renamed, rename(detections), "bbox").stats
    np.testing.assert_array_equal(found, expected)


def test_an_empty_iscrowd_is_no_crowd(truth, detections):
    usual = [a | {"iscrowd": 0} for a in truth["annotations"]]
    empty = [a | {"iscrowd": None} for a in truth["annotations"]]
    expected, found = (
        evaluate_coco(truth | {"annotations": own}, detections, "bbox").stats
        for own in (usual, empty)
    )
    np.testing.assert_array_equal(found, expected)


def test_other_sigmas_give_other_numbers(truth, detections):
    usual = evaluate_coco(truth, detections, "keypoints").stats[0]
    strict = evaluate_coco(truth, detections, "keypoints", oks_sigmas=[0.02] * POINTS).stats[0]
    assert strict < usual


@pytest.fixture
def name(truth, tmp_path):
    with registered(truth, tmp_path) as known:
        yield known


def test_evaluator_gives_what_detectron2_gives_with_pycocotools(name, truth, detections):
    cfg = default_config()
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    ours = evaluate(build_evaluator(cfg, name), truth, detections)
    slow = COCOEvaluator(name, use_fast_impl=False, kpt_oks_sigmas=[])
    theirs = evaluate(slow, truth, detections)
    assert ours.keys() == theirs.keys() == GIVEN.keys()
    for iou_type, expected in theirs.items():
        assert ours[iou_type] == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


def test_sigmas_that_are_not_one_a_keypoint_stop_before_the_evaluation(name):
    cfg = default_config()
    cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    with pytest.raises(ConfigError, match="is 5, but there are 17 OKS sigmas"):
        build_evaluator(cfg, name)
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1] * 5
    build_evaluator(cfg, name)
