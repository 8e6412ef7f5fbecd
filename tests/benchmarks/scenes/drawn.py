"""What the tests of scenes ask for, and how they read it."""

import json

import numpy as np
from pycocotools import mask as mask_utils

from benchmarks.scenes.generate import Request

REQUEST = Request(unlabelled=4, train=66, val=44, longest_side=160, seed=3)
SPLITS = {"train": REQUEST.train, "val": REQUEST.val}


def read_json(out, name):
    """One of COCO's files of annotations."""
    return json.loads((out / f"coco/annotations/{name}.json").read_text())


def decoded(segmentation, height, width):
    """A label's mask, (h, w) bool, as COCO's own code reads it."""
    lengths = mask_utils.frPyObjects(segmentation, height, width)
    if isinstance(lengths, list):
        lengths = mask_utils.merge(lengths)
    return mask_utils.decode(lengths).astype(bool)


def drawn(scenes):
    """(split, index, scene) of all."""
    return [(split, i, s) for split, images in scenes.items() for i, s in enumerate(images)]


def without(label, *keys):
    return {key: value for key, value in label.items() if not key.startswith(keys)}


def share_in_common(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return (a & b).sum() / (a | b).sum()
