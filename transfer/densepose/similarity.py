"""How well detections and labelled persons agree: GPS (Güler et al., 2018), masks, boxes.

Of an image with D detections and G persons. A detection is a box (x, y, width, height) in px, and
the compact map (3, h, w) uint8 of its pixels: chart, and U, V from 0 to 255. A person is an
annotation of the JSON file.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.ndimage import zoom

from transfer.densepose.annotations import MASK_KEY, MASK_SIDE, POINT_KEYS, decode_masks
from transfer.densepose.config import CHARTS
from transfer.densepose.surface import NORMALISERS, Surface

Person = dict[str, Any]


def is_annotated(person: Person) -> bool:
    """Whether evaluation counts the person; training wants all of the keys of points."""
    return "dp_x" in person


def point_similarity(
    surface: Surface, boxes: np.ndarray, maps: Sequence[np.ndarray], people: Sequence[Person]
) -> np.ndarray:
    """GPS (D, G) float64 in [0, 1]; 0 for persons without points.

    boxes: (D, 4) float64.
    """
    similarity = np.zeros((len(boxes), len(people)))
    for column, person in enumerate(people):
        if len(boxes) and is_annotated(person):
            similarity[:, column] = _similarity_to(surface, boxes, maps, person)
    return similarity


def _similarity_to(
    surface: Surface, boxes: np.ndarray, maps: Sequence[np.ndarray], person: Person
) -> np.ndarray:
    """GPS (D,) with one annotated person."""
    x, y, charts, u, v = (np.array(person[key], dtype=np.float64) for key in POINT_KEYS)
    known = (charts >= 1) & (charts <= CHARTS)
    if not known.any():
        return np.zeros(len(boxes))
    x, y, charts, u, v = (values[known] for values in (x, y, charts.astype(np.int64), u, v))
    left, top, width, height = person["bbox"]
    # Upstream divides by 255 here, and by 256 in training.
    x, y = x * width / 255 + left, y * height / 255 + top
    found = [_read(chart_map, box, x, y) for chart_map, box in zip(maps, boxes, strict=True)]
    labels, found_u, found_v = np.stack(found, axis=1)  # (D, K) each
    vertices = surface.nearest(labels.ravel(), found_u.ravel() / 255, found_v.ravel() / 255)
    distances = surface.distances(
        vertices.reshape(labels.shape), surface.nearest(charts, u, v)[None]
    )
    # What was not found is infinitely far away.
    return np.exp(-(distances**2) / (2 * NORMALISERS[charts] ** 2)).mean(axis=1)


def _read(chart_map: np.ndarray, box: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Chart, U and V (3, K) uint8 at points of the image; zeros outside of the box."""
    # Towards zero: up to a pixel to the left of the box, or above it, is inside.
    column, row = (x - box[0]).astype(np.int64), (y - box[1]).astype(np.int64)
    width, height = int(box[2]), int(box[3])
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    found = np.zeros((3, len(x)), dtype=np.uint8)
    found[:, inside] = chart_map[:, row[inside], column[inside]]
    return found


def mask_iou(
    boxes: np.ndarray,
    maps: Sequence[np.ndarray],
    people: Sequence[Person],
    size: tuple[int, int],
) -> np.ndarray:
    """IoU (D, G) float64 of masks; size: (height, width) of the image."""
    found = [
        encode_mask(chart_map[0] > 0, box, size) for chart_map, box in zip(maps, boxes, strict=True)
    ]
    return _iou(found, [_mask_of(person, size) for person in people], people)


def box_iou(boxes: np.ndarray, people: Sequence[Person]) -> np.ndarray:
    """IoU (D, G) float64 of boxes."""
    return _iou(boxes, np.array([person["bbox"] for person in people], dtype=np.float64), people)


def _iou(found: Any, labelled: Any, people: Sequence[Person]) -> np.ndarray:
    """COCO's IoU; with a crowd, the share of the detection that lies in it."""
    if not len(found) or not len(labelled):
        return np.zeros((len(found), len(labelled)))
    return coco_mask.iou(found, labelled, [person.get("iscrowd", 0) for person in people])


def encode_mask(mask: np.ndarray, box: Sequence[float], size: tuple[int, int]) -> dict[str, Any]:
    """A box's mask (h, w) bool at its place in the image, as COCO's run lengths.

    Cut at the image's border and at the box's.
    """
    x, y = int(box[0]), int(box[1])
    left, top = max(x, 0), max(y, 0)
    right = max(left, min(int(box[0] + box[2]), x + mask.shape[1], size[1]))
    bottom = max(top, min(int(box[1] + box[3]), y + mask.shape[0], size[0]))
    image = np.zeros(size, dtype=np.uint8, order="F")
    image[top:bottom, left:right] = mask[top - y : bottom - y, left - x : right - x]
    return coco_mask.encode(image)


def _mask_of(person: Person, size: tuple[int, int]) -> dict[str, Any]:
    """A person's run lengths: of the coarse parts, or else of COCO's segmentation, or empty."""
    box = person["bbox"]
    if MASK_KEY in person:
        parts = (decode_masks(person[MASK_KEY]) > 0).astype(np.float64)
        # As upstream: at some sizes scipy's rounding leaves the last row or column empty.
        scale = [max(side, 1) / MASK_SIDE for side in (box[3], box[2])]
        return encode_mask(zoom(parts, scale, order=1, prefilter=False) > 0.5, box, size)
    segmentation = person.get("segmentation")
    if not segmentation:
        return encode_mask(np.zeros((0, 0), dtype=bool), box, size)
    if isinstance(segmentation, list):  # polygons
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return coco_mask.frPyObjects(segmentation, *size)
    return segmentation
