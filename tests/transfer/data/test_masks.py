"""Masks of all the forms that files have them in."""

import math
import re

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from transfer.data.masks import clean_mask, decode_runs

SIZE = HEIGHT, WIDTH = 32, 48
SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]
TRIANGLE = [1.5, 2, 30, 2, 30, 9]
PAIRS = [[10, 10], [20, 10], [20, 20], [10, 20]]
RUNS = [330, 10, 1196]
CODE = coco_masks.frPyObjects({"size": [*SIZE], "counts": RUNS}, *SIZE)["counts"].decode()


@pytest.mark.parametrize(
    ("label", "polygons"),
    [
        ([SQUARE, TRIANGLE], [SQUARE, TRIANGLE]),
        (SQUARE, [SQUARE]),
        (PAIRS, [SQUARE]),
        ([PAIRS, TRIANGLE], [SQUARE, TRIANGLE]),
        ([[1, 1, 5, 5], SQUARE, [3, 3]], [SQUARE]),  # what has no area goes
    ],
)
def test_polygons_of_every_form_become_flat_lists(label, polygons):
    assert clean_mask(label, SIZE) == polygons


@pytest.mark.parametrize("counts", [RUNS, [float(run) for run in RUNS], CODE])
def test_run_lengths_become_compressed_and_keep_their_pixels(counts):
    mask = clean_mask({"size": [32.0, 48.0], "counts": counts}, SIZE)
    assert np.flatnonzero(coco_masks.decode(mask).ravel(order="F")).tolist() == [*range(330, 340)]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "segmentation None is no mask"),
        ([], "segmentation [] is no mask"),
        ({}, "its mask has the size None"),
        ("[[1, 2, 3, 4, 5, 6]]", "is no mask"),
        ([[1, 2, 3, 4]], "has no polygon of 3 points"),
        ([1, 2, 3, 4], "has no polygon of 3 points"),
        ([[math.nan, *SQUARE[1:]]], "is no list of numbers"),
        ([SQUARE, [math.inf, *SQUARE[1:]]], "is no list of numbers"),
        ([["10", *SQUARE[1:]]], "is no list of numbers"),
        ([[10**400, *SQUARE[1:], 0.5]], "is no list of numbers"),
        ([[{"x": 1, "y": 2}]], "is no list of numbers"),
        ([[1e9, *SQUARE[1:]]], "lies far outside of the image"),
        ([[0.1, 0.2, 0.9, 0.2, 0.9, 0.8]], "shares of the image?"),
        ({"size": [48, 32], "counts": RUNS}, "has the size [48, 32], the image [32, 48]"),
        ({"size": [32, 48], "counts": RUNS[:-1]}, "[330, 10] of its mask do not fill"),
        ({"size": [32, 48], "counts": [340, -10, 1206]}, "do not fill"),
        ({"size": [32, 48], "counts": [330.5, 9.5, 1196]}, "do not fill"),
        ({"size": [32, 48], "counts": [1536]}, "its mask is empty"),
        ({"size": [32, 48], "counts": [*CODE.encode()]}, "do not fill"),
        ({"size": [32, 48], "counts": str(CODE.encode())}, "do not fill"),
        ({"size": [32, 48], "counts": "Wjo6Cg=="}, "do not fill"),
        ({"size": [32, 48], "counts": CODE[:-1]}, "do not fill"),
        ({"size": [32, 48], "counts": None}, "do not fill"),
        ({"size": [32, 48]}, "do not fill"),
    ],
)
def test_what_is_no_mask_is_said(label, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        clean_mask(label, SIZE)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 1])
def test_runs_are_decoded_as_they_lie_in_the_mask(share):
    """Of a large image, too, whose runs have up to five characters."""
    mask = np.random.default_rng(0).random((1200, 1000)) < share
    code = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    pixels = np.concatenate([[False], mask.ravel(order="F")])  # runs begin with one of background
    ends = np.append(np.flatnonzero(np.diff(pixels)), mask.size)
    assert decode_runs(code) == np.diff(ends, prepend=0).tolist()


@pytest.mark.parametrize("code", ["", "1o", "1é", "b'1'", "\x00", "o" * 50 + "1"])
def test_what_is_not_in_the_form_of_runs_has_no_sum(code):
    assert decode_runs(code) == [-1]


def test_runs_with_a_character_that_is_in_no_code_have_no_sum():
    assert decode_runs(CODE.replace(CODE[0], "\u0100")) == [-1]


@pytest.mark.parametrize("label", [[[[10, 10], 5, [40, 30]]], [[10, 10], 5], [{"x": 1}]])
def test_lists_that_are_mixed_are_no_masks(label):
    with pytest.raises(ValueError, match="segmentation"):
        clean_mask(label, SIZE)
