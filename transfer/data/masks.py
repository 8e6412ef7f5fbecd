"""Masks of COCO-like files, made safe for compiled code, which trusts what it is given."""

import math
import reprlib
from typing import Any

import numpy as np
from pycocotools import mask as coco_masks

FAR = 10  # how many times the image's longer side a corner may lie away

Mask = list[list[float]] | dict[str, Any]


def are_numbers(values: Any) -> bool:
    """Whether ``values`` is a list of finite numbers; a sum shows it, and is fast."""
    try:
        return isinstance(values, list) and math.isfinite(sum(values))
    except (TypeError, OverflowError):
        return False


def clean_mask(label: Any, size: tuple[int, int]) -> Mask:
    """An annotation's ``segmentation`` as polygons of 3 points or more, or as compressed runs.

    Points may be pairs, and a single polygon may stand without its brackets; parts that are no
    polygons are left out, as Detectron2 does it. size: (height, width) of the image. Raises
    ValueError, which says why, for what is no mask.
    """
    if isinstance(label, dict):
        return _clean_runs(label, size)
    if not isinstance(label, list) or not label:
        raise ValueError(f"segmentation {reprlib.repr(label)} is no mask")
    depth = _depth(label)
    if depth == 1 or (depth == 2 and all(isinstance(p, list) and len(p) == 2 for p in label)):
        label = [label]
    polygons = []
    for polygon in label:
        if _depth(polygon) == 2 and all(isinstance(point, list) for point in polygon):
            polygon = [number for point in polygon for number in point]
        if not are_numbers(polygon):
            raise ValueError(f"in its segmentation {reprlib.repr(polygon)} is no list of numbers")
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            polygons.append(polygon)
    if not polygons:
        raise ValueError(f"segmentation {reprlib.repr(label)} has no polygon of 3 points")
    limit, last = FAR * max(size), max(map(max, polygons))
    if last > limit or min(map(min, polygons)) < -limit:
        raise ValueError("its segmentation lies far outside of the image")
    if last <= 1:
        raise ValueError("its segmentation lies in one pixel: are these shares of the image?")
    return polygons


def _depth(label: Any) -> int:
    """How many lists lie in each other at the beginning of ``label``."""
    depth = 0
    while isinstance(label, list) and label:
        depth, label = depth + 1, label[0]
    return depth


def _clean_runs(label: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """Run lengths, compressed; they must fill the image and have a pixel of foreground."""
    counts = label.get("counts")
    if label.get("size") != list(size):
        found = reprlib.repr(label.get("size"))
        raise ValueError(f"its mask has the size {found}, the image {list(size)} (height, width)")
    if isinstance(counts, str):
        runs = decode_runs(counts)
    else:
        whole = are_numbers(counts) and all(run % 1 == 0 for run in counts)
        runs = [int(run) for run in counts] if whole else [-1]
    if min(runs, default=-1) < 0 or sum(runs) != size[0] * size[1]:
        found = reprlib.repr(counts)
        raise ValueError(f"the run lengths {found} of its mask do not fill {list(size)} pixels")
    if not any(runs[1::2]):
        raise ValueError("its mask is empty")
    if isinstance(counts, list):
        return coco_masks.frPyObjects({"size": list(size), "counts": runs}, *size)
    return {"size": list(size), "counts": counts}


def decode_runs(code: str) -> list[int]:
    """The run lengths in COCO's compressed form; [-1] for a string that is not in it.

    A character less 48 holds five bits of a number, the lowest first, and bit 5 where the number
    goes on; the highest bit of its last character is the sign. From the fourth on, a number is the
    difference to the run before the last. (pycocotools reads beyond the end of a string that is cut
    within a number.)
    """
    if not code.isascii():
        return [-1]
    values = np.frombuffer(code.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(values & 32 == 0) + 1
    if not len(values) or values.min() < 0 or values.max() > 63 or ends[-1:] != [len(values)]:
        return [-1]
    starts = np.append(0, ends[:-1])
    place = np.arange(len(values)) - np.repeat(starts, ends - starts)
    if place.max() > 6:  # more bits than a run can have
        return [-1]
    numbers = np.add.reduceat((values & 31) << 5 * place, starts)
    numbers -= (values[ends - 1] & 16) << (5 * (ends - starts) - 4)
    for first in (1, 2):
        numbers[first::2] = numbers[first::2].cumsum()
    return numbers.tolist()
