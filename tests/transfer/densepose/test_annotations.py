"""Annotations from the JSON file, as a field of Instances, and through a loader's workers."""

import os
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from tests.transfer.densepose.cases import annotation, person, runs
from transfer.densepose.annotations import POINT_KEYS, Annotation, Annotations, has_points

ENTRIES = [None, annotation(np.ones((5, 2))), None, annotation(np.zeros((5, 1)))]


def same(found, expected):
    return len(found) == len(expected) and all(
        one is other for one, other in zip(found, expected, strict=True)
    )


def test_a_person_is_annotated_with_all_five_keys():
    for key in POINT_KEYS:
        annotation = person(1)
        del annotation["dp_masks"]
        assert has_points(annotation)
        del annotation[key]
        assert not has_points(annotation)


def test_later_parts_overwrite_earlier_ones():
    random = np.random.default_rng(0)
    parts = random.random((14, 256, 256)) < 0.1
    masks = [runs(part) for part in parts]
    masks[4] = []
    read = Annotation.from_coco(person(1, dp_masks=masks))
    expected = np.zeros((256, 256))
    for part in range(14):
        if part != 4:
            expected[coco_mask.decode(masks[part]) == 1] = part + 1
    np.testing.assert_array_equal(read.segm, expected)
    assert read.segm.unique().tolist() == [0, 1, 2, 3, 4, *range(6, 15)]


def test_one_mask_alone_is_a_foreground_and_without_masks_there_is_no_grid():
    foreground = np.random.default_rng(0).random((256, 256)) < 0.5
    read = Annotation.from_coco(person(1, dp_masks=runs(foreground)))
    np.testing.assert_array_equal(read.segm, foreground)
    assert Annotation.from_coco(person(1, dp_masks=None)).segm is None


def test_an_int_gives_the_entry_and_all_else_annotations():
    field = Annotations(ENTRIES)
    assert len(field) == 4
    assert same(field, ENTRIES)
    assert [field[n] for n in (0, 1, -1)] == [None, ENTRIES[1], ENTRIES[3]]
    for item, expected in (
        (slice(1, 3), ENTRIES[1:3]),
        (slice(0, 0), []),
        (torch.tensor([True, False, False, True]), [ENTRIES[0], ENTRIES[3]]),
        (torch.tensor([3, 1, 1]), [ENTRIES[3], ENTRIES[1], ENTRIES[1]]),
        (torch.zeros(0, dtype=torch.int64), []),
    ):
        chosen = field[item]
        assert isinstance(chosen, Annotations)
        assert same(chosen, expected)
    with pytest.raises(IndexError):
        field[torch.tensor([True, False])]


@pytest.mark.parametrize("changes", [{}, {"dp_masks": None}])
def test_pickling_changes_nothing(changes):
    before = Annotation.from_coco(person(1, **changes))
    after = pickle.loads(pickle.dumps(before))
    for name in ("x", "y", "i", "u", "v", "segm"):
        old, new = getattr(before, name), getattr(after, name)
        assert (old is None and new is None) or torch.equal(old, new)
        assert old is None or old.dtype == new.dtype


def test_annotations_of_workers_keep_no_file_open():
    image = Annotations([Annotation.from_coco(person(number)) for number in range(20)])
    rows = iter(DataLoader([image, image], batch_size=None, num_workers=1))
    before = len(os.listdir("/proc/self/fd"))
    kept = [next(rows), next(rows)]
    assert len(os.listdir("/proc/self/fd")) < before + len(kept)
