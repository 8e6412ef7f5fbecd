"""Matches, curves and summaries, against golden ones and against COCO's loops."""

import numpy as np
import pytest

from tests.transfer.densepose.cases import load, load_json
from transfer.densepose.matching import (
    AREAS,
    MEASURES,
    RECALLS,
    Image,
    accumulate,
    iou_thresholds,
    match,
    summarize,
)

THRESHOLDS = iou_thresholds(0.5)
GOLDEN_NAMES = dict(zip(MEASURES, ("GPS", "GPSM", "IOU"), strict=True))


def golden_images():
    """Image, ids of its detections and of its persons, by image id; similarities are golden."""
    golden, truth, found = load("eval_expected"), load_json("eval_gt"), load("eval_pred")
    images = {}
    for image_id in sorted(image["id"] for image in truth["images"]):
        people = [a for a in truth["annotations"] if a["image_id"] == image_id]
        rows = np.flatnonzero(found["dt_image_id"] == image_id)
        rows = rows[np.argsort(-found["dt_score"][rows], kind="stable")][:20]
        chosen = golden["pair_image_id"] == image_id
        pairs = {
            name: dict(
                zip(
                    zip(golden["pair_dt_id"][chosen], golden["pair_gt_id"][chosen], strict=True),
                    golden[f"pair_{name}"][chosen],
                    strict=True,
                )
            )
            for name in ("gps", "mask_iou", "box_iou")
        }
        matrices = {
            name: np.array([[own[d + 1, p["id"]] for p in people] for d in rows]).reshape(
                len(rows), len(people)
            )
            for name, own in pairs.items()
        }
        image = Image(
            scores=found["dt_score"][rows],
            sizes=found["dt_bbox"][rows, 2] * found["dt_bbox"][rows, 3],
            areas=np.array([p["area"] for p in people], dtype=float),
            annotated=np.array(["dp_x" in p for p in people], dtype=bool),
            crowds=np.array([p["iscrowd"] for p in people], dtype=bool),
            **matrices,
        )
        images[image_id] = image, (rows + 1).tolist(), [p["id"] for p in people]
    return images


IMAGES = golden_images()


@pytest.mark.parametrize("measure", MEASURES)
def test_matches_are_upstreams(measure):
    found = set()
    for image_id, (image, detections, people) in IMAGES.items():
        for number, area in enumerate(AREAS):
            matched, ignored = match(image, MEASURES[measure](image), area, THRESHOLDS)
            for row, column in np.ndindex(matched.shape):
                person = people[matched[row, column]] if matched[row, column] >= 0 else 0
                pair = detections[column], person
                found.add((number, image_id, row, *pair, int(ignored[row, column])))
    golden = load("eval_expected")[f"matches_{GOLDEN_NAMES[measure]}"]
    assert found == {tuple(row) for row in golden.tolist()}


@pytest.mark.parametrize("measure", MEASURES)
def test_curves_are_upstreams(measure):
    golden, name = load("eval_expected"), GOLDEN_NAMES[measure]
    np.testing.assert_array_equal(THRESHOLDS, golden["iou_thresholds"])
    np.testing.assert_array_equal(RECALLS, golden["recall_thresholds"])
    np.testing.assert_array_equal(AREAS, golden["area_ranges"])
    precision, recall = accumulate([image for image, _, _ in IMAGES.values()], measure, THRESHOLDS)
    np.testing.assert_array_equal(precision, golden[f"precision_{name}"][:, :, 0, :, 0])
    np.testing.assert_array_equal(recall, golden[f"recall_{name}"][:, 0, :, 0])


@pytest.mark.parametrize("minimum", [0.5, 0.2])
def test_summaries_are_upstreams(minimum):
    golden = load_json("eval_results")[f"min_threshold_{minimum}".replace(".", "_")]
    results = summarize([image for image, _, _ in IMAGES.values()], minimum)
    assert list(results) == list(MEASURES)
    for measure, numbers in results.items():
        expected = golden[GOLDEN_NAMES[measure]]
        assert list(numbers) == list(expected)
        assert numbers == pytest.approx(expected, rel=0, abs=1e-6)


def draw_image(random):
    """Ties, equal similarities, crowds, persons that do not count, and each alone."""
    detections, people = random.integers(0, 9), random.integers(0, 6)
    shape = detections, people

    def similarities():
        return np.round(random.random(shape) * (random.random(shape) < 0.7), 1)

    return Image(
        scores=np.sort(np.round(random.random(detections), 1))[::-1],
        sizes=random.choice([500, 2000, 5000, 20000], detections).astype(float),
        areas=random.choice([500, 32**2, 5000, 96**2, 20000], people).astype(float),
        annotated=random.random(people) < random.choice([0, 0.7, 1]),
        crowds=random.random(people) < 0.2,
        gps=similarities(),
        mask_iou=similarities(),
        box_iou=similarities(),
    )


def slow_match(image, similarity, area, thresholds):
    """COCO's loops and DensePose's additions, in their words."""
    detections, people = similarity.shape
    skip = [
        not image.annotated[g] or not area[0] <= image.areas[g] <= area[1] for g in range(people)
    ]
    order = sorted(range(people), key=lambda g: skip[g])
    matched = np.full((len(thresholds), detections), -1)
    ignored = np.full((len(thresholds), detections), all(skip))
    for t, threshold in enumerate(thresholds):
        taken = set()
        for d in range(detections):
            best, person = min(threshold, 1 - 1e-10), -1
            for g in order:
                if g in taken and not image.crowds[g]:
                    continue
                if person > -1 and not skip[person] and skip[g]:
                    break
                if similarity[d, g] < best or similarity[d, g] == 0:
                    continue
                best, person = similarity[d, g], g
            if person > -1:
                matched[t, d], ignored[t, d] = person, skip[person]
                taken.add(person)
    for d in range(detections):
        if matched[-1, d] == -1:
            best, person = 0.8, -1
            for g in order:
                if g in taken and not image.crowds[g]:
                    continue
                if image.box_iou[d, g] >= best:
                    best, person = image.box_iou[d, g], g
            if person > -1:
                ignored[:, d] = skip[person]
                if skip[person]:
                    matched[-1, d] = person
                    taken.add(person)
    for t, d in np.ndindex(matched.shape):
        if matched[t, d] == -1 and not area[0] <= image.sizes[d] <= area[1]:
            ignored[t, d] = True
    return matched, ignored


@pytest.mark.parametrize("minimum", [0.5, 0])
def test_matches_equal_the_loops(minimum):
    random, thresholds = np.random.default_rng(0), iou_thresholds(minimum)
    rescued = matches = 0
    for _ in range(300):
        image = draw_image(random)
        for area in AREAS:
            matched, ignored = match(image, image.gps, area, thresholds)
            expected = slow_match(image, image.gps, area, thresholds)
            np.testing.assert_array_equal(matched, expected[0])
            np.testing.assert_array_equal(ignored, expected[1])
            matches += (matched[0] >= 0).sum()
            rescued += ((matched[-1] >= 0) & (matched[-2] == -1)).sum()
    assert min(matches, rescued) > 100


def test_without_a_person_of_an_area_its_numbers_are_minus_100():
    pair = np.ones((1, 1))
    image = Image(
        scores=np.array([0.5]),
        sizes=np.array([5000.0]),
        areas=np.array([5000.0]),
        annotated=np.array([True]),
        crowds=np.array([False]),
        **dict.fromkeys(("gps", "mask_iou", "box_iou"), pair),
    )
    for numbers in summarize([image], 0.35).values():
        assert numbers == pytest.approx(dict.fromkeys(numbers, 100) | {"APl": -100, "ARl": -100})
        assert [name for name in numbers if name in ("AP20", "AP30", "AP40")] == ["AP40"]
