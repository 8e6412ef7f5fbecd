"""Views: golden crops, boxes, pixels and patches of the released codes."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import augment
from pretrain.augment import (
    MultiCrop,
    View,
    boxes_of,
    crop_box,
    cut_patches,
    cut_view,
    edge_box,
    sample_crop,
    sample_overlapping_crop,
)
from pretrain.config import get_cfg
from pretrain.photometry import UNCHANGED, Photometry, apply_to_view, normalize

GOLDEN = Path(__file__).parents[1] / "golden"
NONE = {"JITTER": 0.0, "GRAYSCALE": 0.0, "BLUR": (0.0,) * 3, "SOLARIZE": (0.0,) * 3}


def golden(name):
    with np.load(GOLDEN / name) as file:
        return dict(file)


def multicrop(photometry=True, **changes):
    """Small views, as CROPS describes them with some changes."""
    cfg = get_cfg().CROPS
    changes = {"GLOBAL_SIZE": 32, "NUM_LOCALS": 2, "LOCAL_SIZE": 16} | changes
    cfg.merge_from_list([each for pair in changes.items() for each in pair])
    return MultiCrop(cfg, photometry)


def noise_image(width=60, height=40, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return as_tensor(pixels)


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def golden_crops():
    """Rows of Crop, and their boxes by the released code."""
    file = golden("coords_boxes.npz")
    sizes, flips = file["image_size_wh"][:, ::-1], file["flip"][:, None]
    return np.concatenate([file["box_ijhw"], sizes, flips], axis=1).astype(int), file["coord"]


def test_boxes_of_centres_equal_the_released_code():
    crops, expected = golden_crops()
    actual = np.array([crop_box(*crop) for crop in crops.tolist()])
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
    batched = boxes_of(torch.from_numpy(crops)[:, None], "centers")
    np.testing.assert_array_equal(batched[:, 0], actual.astype(np.float32))


def test_boxes_of_edges_are_the_crops_own_in_pixels():
    crops, _ = golden_crops()
    for crop, box in zip(crops.tolist(), boxes_of(torch.from_numpy(crops), "edges"), strict=True):
        top, left, height, width, _, _, flipped = crop
        x = [left, left + width]
        expected = (x[flipped], top, x[1 - flipped], top + height)
        assert edge_box(*crop) == tuple(box.tolist()) == expected


def test_crop_box_of_an_image_without_extent_is_refused():
    with pytest.raises(ValueError, match="1x5 pixels"):
        crop_box(0, 0, 5, 1, 5, 1, False)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_crops_are_cut_as_pillow_does_up_to_the_rounding_of_the_resize(monkeypatch, interpolation):
    """The released code resizes by Pillow, we by torch: the same kernel, other roundings."""
    file = golden("coords_pixels.npz")
    pixels, size = file["image_hwc"].astype(np.uint8), int(file["out_size"])
    view = View(size, (0.2, 1.0), interpolation)
    for n, (crop, flip) in enumerate(zip(file["box_ijhw"].tolist(), file["flip"], strict=True)):
        monkeypatch.setattr(augment, "sample_crop", lambda *_, crop=crop: crop)
        monkeypatch.setattr(augment, "FLIP", float(flip))
        found, box = cut_view(as_tensor(pixels), view, random.Random(n))
        np.testing.assert_allclose(box, file["coord"][n], rtol=0, atol=1e-6)
        if interpolation == "bicubic":
            assert np.abs(found.astype(int) - file["resized_hwc"][n]).max() <= 1
            normalized = normalize(as_tensor(found) / 255)
            tolerance = {"rtol": 0, "atol": 1.01 / 255 / 0.224}
            np.testing.assert_allclose(normalized, file["normalized_chw"][n], **tolerance)
        else:
            top, left, height, width = crop
            image = Image.fromarray(pixels).crop((left, top, left + width, top + height))
            expected = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
            expected = expected[:, ::-1] if flip else expected
            assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("setting", range(11))
def test_crop_draws_equal_the_released_code(setting):
    file = golden("coords_sampling.npz")
    width, height, low, high, seed = file["settings"][setting].tolist()
    rng, expected = random.Random(int(seed)), file[f"draws_{setting}"]
    draws = [sample_crop(int(width), int(height), (low, high), rng) for _ in expected]
    np.testing.assert_array_equal(draws, expected)


@pytest.mark.parametrize("setting", range(5))
def test_overlapping_crop_draws_equal_slotcons_released_code(setting):
    file = golden("methods/slotcon_crops.npz")
    width, height, low, high, seed = file["settings"][setting].tolist()
    size, area, rng = (int(width), int(height)), (low, high), random.Random(int(seed))
    for expected in file[f"draws_{setting}"]:
        first = sample_crop(*size, area, rng)
        second = sample_overlapping_crop(*size, area, first, rng)
        np.testing.assert_array_equal([first, second], expected)


def test_patches_equal_the_golden_ones():
    file = golden("methods/detco_patches.npz")
    v = torch.arange(255 * 255).view(255, 255)
    for offsets, order, corners, sums in zip(*map(torch.from_numpy, file.values()), strict=True):
        patches = cut_patches(torch.stack([v % 256, v // 256, 7 * v % 251]), offsets, order)
        assert torch.equal(patches.sum(dim=(2, 3)).double(), sums)
        at_corners = patches[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert torch.equal(at_corners[:, 0] + 256 * at_corners[:, 1], corners)


def test_views_depend_on_the_generator_only_and_are_cut_where_their_crops_say():
    image, crops = noise_image(), multicrop(**NONE)
    views, again, other = (crops(image, random.Random(seed)) for seed in ("507", "507", "517"))
    assert all(torch.equal(a, b) for a, b in zip(views, again, strict=True))
    assert not torch.equal(views.global_crops, other.global_crops)
    kinds = crops.global_views + crops.local_views
    for view, crop, found in zip(
        kinds, views.crops.tolist(), [*views.global_crops, *views.local_crops], strict=True
    ):
        assert crop[4:6] == [40, 60]
        expected = augment.cut(image, view, augment.Crop(*crop))
        np.testing.assert_array_equal(found.permute(1, 2, 0), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_flips_are_each_views_own_unless_the_two_globals_share_them(shared):
    crops = multicrop(GLOBAL_SIZE=8, LOCAL_SIZE=8, NUM_LOCALS=6, SHARED_FLIP=shared)
    image = noise_image(12, 12)
    flips = torch.stack([crops(image, random.Random(n)).crops[:, -1] for n in range(300)])
    both = (flips[:, 0] == flips[:, 1]).float().mean()
    assert both == 1 if shared else 0.35 < both < 0.65
    assert abs(flips[:, 1:].float().mean() - 0.5) <= 2 / flips[:, 1:].numel() ** 0.5


@pytest.mark.parametrize("asked", [0.0, 0.01])
def test_the_second_global_overlaps_the_first_where_that_is_asked_for(monkeypatch, asked):
    def sample(width, height, area, other, rng, min_overlap):
        return other if min_overlap == asked else None

    monkeypatch.setattr(augment, "sample_overlapping_crop", sample)
    crops = multicrop(MIN_OVERLAP=asked)(noise_image(), random.Random(0)).crops[:, :4].tolist()
    assert (crops[0] == crops[1]) == bool(asked)
    assert crops[0] != crops[2]


@pytest.mark.parametrize("photometry", [True, False])
def test_colours_are_changed_here_or_left_with_the_numbers_that_change_them(photometry):
    image = noise_image()
    views = multicrop(photometry)(image, random.Random(3))
    plain = multicrop(False)(image, random.Random(3))
    assert torch.equal(views.photometry, plain.photometry)
    assert torch.equal(views.crops, plain.crops)
    for n, numbers in enumerate(views.photometry.tolist()):
        of, k = ("global_crops", n) if n < 2 else ("local_crops", n - 2)
        expected = getattr(plain, of)[k].permute(1, 2, 0).contiguous().numpy()
        if photometry:
            expected = apply_to_view(expected, Photometry(*numbers))
        np.testing.assert_array_equal(getattr(views, of)[k].permute(1, 2, 0), expected)


def test_locals_are_cut_into_nine_patches_that_have_their_colours_on_any_device():
    whole = multicrop(LOCAL_SIZE=48)(noise_image(), random.Random(3))
    for photometry in (True, False):
        views = multicrop(photometry, LOCAL_SIZE=48, PATCH_SIZE=16)(noise_image(), random.Random(3))
        assert views.local_crops.shape == (18, 3, 16, 16)
        assert views.crops.shape == (20, 7)
        assert views.photometry[2:].tolist() == [list(UNCHANGED)] * 18
        cells = whole.local_crops[0].unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4)
        expected = sorted(cells.flatten(0, 1).flatten(1).tolist())  # patches that fill their cells
        assert sorted(views.local_crops[:9].flatten(1).tolist()) == expected
