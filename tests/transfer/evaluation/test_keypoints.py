"""OKS by faster-coco-eval, against pycocotools."""

import json

import numpy as np
import pytest
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.runtime.config import ConfigError
from tests.transfer.evaluation.coco_results import evaluate, registered
from transfer.config import default_config
from transfer.evaluation import build_evaluator, evaluate_coco

HEIGHT, WIDTH, IMAGES, POINTS = 240, 320, 20, 17


def draw_person(random):
    """x, y, width, height of all area ranges, and 17 points in it."""
    w, h = np.exp(random.uniform(np.log(12), np.log(200), 2))
    x, y = random.uniform(0, (WIDTH - w, HEIGHT - h))
    points = random.uniform((x, y), (x + w, y + h), (POINTS, 2))
    return [float(x), float(y), float(w), float(h)], points


def triples(points, third):
    return np.column_stack([points, third]).ravel().tolist()


@pytest.fixture(scope="module")
def truth():
    """People with some points, with none (to be ignored), and crowds; images without any."""
    random = np.random.default_rng(5)
    annotations = []
    for image in range(1, IMAGES + 1):
        for _ in range(0 if image % 7 == 0 else random.integers(1, 6)):
            box, points = draw_person(random)
            crowd, blank = random.random(2) < (0.15, 0.2)
            marks = np.zeros(POINTS) if crowd or blank else random.integers(0, 3, POINTS)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": box,
                    "area": 0.6 * box[2] * box[3],
                    "iscrowd": int(crowd),
                    "keypoints": triples(np.round(points), marks),
                    "num_keypoints": int((marks > 0).sum()),
                }
            )
    return {
        "info": {},
        "images": [{"id": k, "height": HEIGHT, "width": WIDTH} for k in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }


@pytest.fixture(scope="module")
def detections(truth):
    """People a little moved, doubles and noise; image 3 has none, image 4 more than 20."""
    random = np.random.default_rng(6)
    found = []
    for person in truth["annotations"]:
        image = person["image_id"]
        for _ in range(0 if image == 3 else 25 if image == 4 else random.integers(0, 4)):
            points = np.array(person["keypoints"]).reshape(POINTS, 3)[:, :2]
            points = points + random.normal(0, 0.05 * np.sqrt(person["area"]), points.shape)
            found.append(_detection(random, image, person["bbox"], points))
        if random.random() < 0.3:
            found.append(_detection(random, image, *draw_person(random)))
    return found


def _detection(random, image, box, points):
    return {
        "image_id": image,
        "category_id": 1,
        "bbox": box,
        "score": round(float(random.random()), 2),  # ties are likely
        "keypoints": triples(points, np.ones(POINTS)),
    }


def test_ten_numbers_equal_pycocotools(truth, detections):
    api = COCO()
    api.dataset = json.loads(json.dumps(truth))
    api.createIndex()
    evaluation = COCOeval(api, api.loadRes(json.loads(json.dumps(detections))), "keypoints")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    found = evaluate_coco(truth, detections, "keypoints").stats
    np.testing.assert_allclose(found, evaluation.stats, rtol=0, atol=1e-12)
    assert 0.05 < found[0] < 0.95
    assert (found > -1).all()


def test_no_detection_at_all_scores_zero(truth):
    assert (evaluate_coco(truth, [], "keypoints").stats == 0).all()


def test_other_sigmas_give_other_numbers(truth, detections):
    usual = evaluate_coco(truth, detections, "keypoints").stats[0]
    strict = evaluate_coco(truth, detections, "keypoints", oks_sigmas=[0.02] * POINTS).stats[0]
    assert strict < usual


def test_evaluator_gives_what_detectron2_gives_with_pycocotools(truth, detections, tmp_path):
    cfg = default_config()
    cfg.MODEL.KEYPOINT_ON = True
    with registered(truth, tmp_path) as name:
        ours = evaluate(build_evaluator(cfg, name), truth, detections)
        slow = COCOEvaluator(name, use_fast_impl=False, kpt_oks_sigmas=[])
        theirs = evaluate(slow, truth, detections)
    assert list(ours) == list(theirs) == ["bbox", "keypoints"]
    for group, expected in theirs.items():
        assert ours[group] == pytest.approx(expected, rel=0, abs=1e-9, nan_ok=True)


def test_sigmas_that_are_not_one_a_keypoint_stop_before_the_evaluation(truth, tmp_path):
    cfg = default_config()
    cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 5
    with registered(truth, tmp_path) as name:
        with pytest.raises(ConfigError, match="is 5, but there are 17 OKS sigmas"):
            build_evaluator(cfg, name)
        cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1] * 5
        build_evaluator(cfg, name)
