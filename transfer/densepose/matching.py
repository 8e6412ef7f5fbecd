"""From similarities to AP: COCO's matching with the differences of upstream's evaluator.

They are: 20 detections an image; persons without points do not count; where nobody counts, no
detection is wrong; and what the box rescue in ``match`` does.
Measures are named as in the results: ``densepose_gps``, ``densepose_gpsm``, ``densepose_segm``.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MAX_DETECTIONS = 20  # of an image, the best ones
AREAS = ((0, 1e10), (32**2, 96**2), (96**2, 1e10))  # px²
ALL, MEDIUM, LARGE = range(3)
RECALLS = np.linspace(0, 1, 101)
RESCUE_IOU = 0.8  # of boxes
NO_PERSON = -1
NO_TRUTH = -100.0  # AP where there is nobody to find


@dataclass(frozen=True)
class Image:
    """An image's D detections, best first and at most 20, its G persons, and how they agree.

    scores, sizes (the area of the box, px²): (D,) float64; areas (px²): (G,) float64; annotated,
    crowds: (G,) bool; gps, mask_iou, box_iou: (D, G) float64 in [0, 1].
    """

    scores: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    annotated: np.ndarray
    crowds: np.ndarray
    gps: np.ndarray
    mask_iou: np.ndarray
    box_iou: np.ndarray


MEASURES: dict[str, Callable[[Image], np.ndarray]] = {
    "densepose_gps": lambda image: image.gps,
    "densepose_gpsm": lambda image: np.sqrt(image.gps * image.mask_iou),
    "densepose_segm": lambda image: image.mask_iou,
}


def iou_thresholds(minimum: float) -> np.ndarray:
    """From ``minimum`` to 0.95 in steps of 0.05: (T,) float64."""
    return np.linspace(minimum, 0.95, round((0.95 - minimum) / 0.05) + 1)


def is_ignored(image: Image, area: tuple[float, float]) -> np.ndarray:
    """Which persons (G,) do not count: not annotated, or not of an area's range, (low, high)."""
    return ~image.annotated | (image.areas < area[0]) | (image.areas > area[1])


def match(
    image: Image, similarity: np.ndarray, area: tuple[float, float], thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Persons of detections: (T, D) int64, -1 is none; and which detections do not count, bool.

    similarity: (D, G); area: lowest and highest of the range.
    """
    ignored_people = is_ignored(image, area)
    order = np.argsort(ignored_people, kind="stable")
    similarity, box_iou = similarity[:, order], image.box_iou[:, order]
    ignored_people, crowds = ignored_people[order], image.crowds[order]
    shape = len(thresholds), len(image.scores)
    matched = np.full(shape, NO_PERSON)  # positions in this order
    # Without a person that counts, no detection is wrong.
    ignored = np.full(shape, ignored_people.all())
    taken = np.zeros((len(thresholds), len(order)), dtype=bool)
    if not len(order):
        return matched, ignored
    wanted = np.minimum(thresholds, 1 - 1e-10)[:, None]
    rows = np.arange(len(thresholds))

    for detection, own in enumerate(similarity):
        fits = (~taken | crowds) & (own >= wanted) & (own > 0)
        counting = fits & ~ignored_people
        fits = np.where(counting.any(axis=1, keepdims=True), counting, fits)
        person, found = _last_best(np.where(fits, own, -1)), fits.any(axis=1)
        matched[found, detection] = person[found]
        ignored[found, detection] = ignored_people[person[found]]
        taken[rows[found], person[found]] = True

    # A detection without a person at the last threshold takes over from the person whose box it
    # has whether it counts, at all thresholds.
    for detection in np.flatnonzero(matched[-1] == NO_PERSON):
        fits = (~taken[-1] | crowds) & (box_iou[detection] >= RESCUE_IOU)
        if fits.any():
            person = _last_best(np.where(fits, box_iou[detection], -1))
            ignored[:, detection] = ignored_people[person]
            if ignored_people[person]:
                matched[-1, detection], taken[-1, person] = person, True

    outside = (image.sizes < area[0]) | (image.sizes > area[1])
    ignored |= (matched == NO_PERSON) & outside
    return np.append(order, NO_PERSON)[matched], ignored


def _last_best(values: np.ndarray) -> np.ndarray:
    """Along the last axis the position of the largest, of equals the last."""
    return values.shape[-1] - 1 - values[..., ::-1].argmax(axis=-1)


def accumulate(
    images: Sequence[Image], measure: str, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, 101, areas) at 101 recalls, and the recall reached (T, areas).

    images: all of the data set's, in the order in which equal scores count; -1: there is no person.
    """
    precision = np.full((len(thresholds), len(RECALLS), len(AREAS)), -1.0)
    recall = np.full((len(thresholds), len(AREAS)), -1.0)
    order = np.argsort(-np.concatenate([image.scores for image in images]), kind="stable")
    similarities = [MEASURES[measure](image) for image in images]
    for column, area in enumerate(AREAS):
        people = sum(np.count_nonzero(~is_ignored(image, area)) for image in images)
        if people:
            pairs = [
                match(image, similarity, area, thresholds)
                for image, similarity in zip(images, similarities, strict=True)
            ]
            matched, ignored = (np.concatenate(parts, axis=1) for parts in zip(*pairs, strict=True))
            found = matched[:, order] != NO_PERSON, ignored[:, order]
            precision[..., column], recall[:, column] = _curve(*found, people)
    return precision, recall


def _curve(matched: np.ndarray, ignored: np.ndarray, people: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, 101) and recall (T,) of detections (T, D) by falling score."""
    right = np.cumsum(matched & ~ignored, axis=1, dtype=np.float64)
    wrong = np.cumsum(~matched & ~ignored, axis=1, dtype=np.float64)
    recall = right / people
    precision = right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.pad(precision, ((0, 0), (0, 1)))  # beyond the recall reached it is 0
    positions = np.stack([np.searchsorted(reached, RECALLS) for reached in recall])
    return np.take_along_axis(precision, positions, axis=1), recall.max(axis=1, initial=0)


def summarize(images: Sequence[Image], minimum: float) -> OrderedDict[str, dict[str, float]]:
    """AP and AR of each of ``MEASURES`` in percent.

    images: see ``accumulate``; minimum: the lowest threshold, up to 0.2, 0.3 or 0.4 with AP20,
    AP30 or AP40. -100: there is no such person; all -1: there is no detection at all.
    """
    results, thresholds = OrderedDict(), iou_thresholds(minimum)
    for measure in MEASURES:
        precision, recall = accumulate(images, measure, thresholds)
        chosen = {"AP": precision[..., ALL]}
        for percent in [low for low in (20, 30, 40) if minimum <= low / 100] + [50, 75]:
            chosen[f"AP{percent}"] = precision[np.isclose(thresholds, percent / 100), :, ALL]
        chosen |= {"APm": precision[..., MEDIUM], "APl": precision[..., LARGE]}
        chosen["AR"] = recall[:, ALL]
        for percent in (50, 75):
            chosen[f"AR{percent}"] = recall[np.isclose(thresholds, percent / 100), ALL]
        chosen |= {"ARm": recall[:, MEDIUM], "ARl": recall[:, LARGE]}
        results[measure] = {name: _percent(values) for name, values in chosen.items()}
    if not any(len(image.scores) for image in images):
        return OrderedDict((measure, dict.fromkeys(v, -1.0)) for measure, v in results.items())
    return results


def _percent(values: np.ndarray) -> float:
    known = values[values > -1]
    return 100 * float(known.mean()) if known.size else NO_TRUTH
