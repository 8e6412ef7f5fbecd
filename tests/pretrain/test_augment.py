"""Views: golden crops, boxes and pixels of the released code."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain import augment
from pretrain.augment import ASPECT_RATIO, MultiCrop, crop_box, cut_view, sample_crop
from pretrain.photometry import Photometry, apply_to_view, normalize

GOLDEN = Path(__file__).parents[1] / "golden"


def noise_image(width=60, height=40, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return as_tensor(pixels)


def as_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_crop_box_equals_the_released_code():
    with np.load(GOLDEN / "coords_boxes.npz") as file:
        sizes, boxes, flips, expected = (
            file[name] for name in ("image_size_wh", "box_ijhw", "flip", "coord")
        )
    actual = [
        crop_box(*box.tolist(), int(height), int(width), bool(flip))
        for (width, height), box, flip in zip(sizes, boxes, flips, strict=True)
    ]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_crop_box_of_an_image_without_extent_is_refused():
    with pytest.raises(ValueError, match="1x5 pixels"):
        crop_box(0, 0, 5, 1, 5, 1, False)


def test_crops_equal_the_released_codes_up_to_the_rounding_of_the_resize(monkeypatch):
    """The released code resizes by Pillow, we by torch: the same kernel, other roundings."""
    with np.load(GOLDEN / "coords_pixels.npz") as file:
        golden = {name: file[name] for name in file.files}
    image = as_tensor(golden["image_hwc"].astype(np.uint8))
    view = augment.View(int(golden["out_size"]), (0.2, 1.0), blur=0.0)
    for n, (crop, flip) in enumerate(
        zip(golden["box_ijhw"].tolist(), golden["flip"].tolist(), strict=True)
    ):
        monkeypatch.setattr(augment, "sample_crop", lambda *_, crop=crop: crop)
        monkeypatch.setattr(augment, "FLIP", float(flip))
        pixels, box = cut_view(image, view, random.Random(n))
        difference = np.abs(pixels.astype(int) - golden["resized_hwc"][n])
        assert difference.max() <= 1
        normalized = normalize(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
        np.testing.assert_allclose(normalized, golden["normalized_chw"][n], atol=1.01 / 255 / 0.224)
        np.testing.assert_allclose(box, golden["coord"][n], rtol=0, atol=1e-6)


@pytest.mark.parametrize("setting", range(11))
def test_crop_draws_equal_the_released_code(setting):
    with np.load(GOLDEN / "coords_sampling.npz") as file:
        width, height, low, high, seed = file["settings"][setting].tolist()
        expected = file[f"draws_{setting}"]
    rng = random.Random(int(seed))
    draws = [sample_crop(int(width), int(height), (low, high), rng) for _ in expected]
    np.testing.assert_array_equal(draws, expected)


def test_views_depend_on_the_generator_only():
    crops = MultiCrop(32, num_locals=2, local_size=16)
    image = noise_image()
    first, again, other = (
        crops(image, random.Random(seed)) for seed in ("5-0-7", "5-0-7", "5-1-7")
    )
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("num_locals", [0, 1, 6])
def test_multicrop_gives_two_globals_any_number_of_locals_and_their_boxes(num_locals):
    global_crops, local_crops, boxes, numbers = MultiCrop(32, num_locals=num_locals, local_size=16)(
        noise_image(), random.Random(0)
    )
    assert global_crops.shape == (2, 3, 32, 32)
    assert global_crops.dtype == torch.uint8
    assert len(local_crops) == num_locals
    assert local_crops.shape[1:] == ((3, 16, 16) if num_locals else (3, 0, 0))
    assert boxes.shape == (2 + num_locals, 4)
    assert numbers.shape == (2 + num_locals, len(Photometry._fields))


def test_flips_come_as_often_as_the_specification_says():
    boxes = torch.cat(
        [
            MultiCrop(8, num_locals=6, local_size=8)(noise_image(12, 12), random.Random(n)).boxes
            for n in range(300)
        ]
    )
    flips = (boxes[:, 0] > boxes[:, 2]).sum().item()
    assert abs(flips - len(boxes) / 2) <= 4 * (len(boxes) / 4) ** 0.5


@pytest.mark.parametrize("photometry", [True, False])
def test_colours_are_changed_here_or_left_with_the_numbers_that_change_them(photometry):
    crops = MultiCrop(32, num_locals=2, local_size=16, photometry=photometry)
    image = noise_image()
    views = crops(image, random.Random(3))
    plain = MultiCrop(32, num_locals=2, local_size=16, photometry=False)(image, random.Random(3))
    assert torch.equal(views.photometry, plain.photometry)
    assert torch.equal(views.boxes, plain.boxes)
    for n, numbers in enumerate(views.photometry.tolist()):
        of, k = ("global_crops", n) if n < 2 else ("local_crops", n - 2)
        expected = getattr(plain, of)[k].permute(1, 2, 0).contiguous().numpy()
        if photometry:
            expected = apply_to_view(expected, Photometry(*numbers))
        np.testing.assert_array_equal(getattr(views, of)[k].permute(1, 2, 0), expected)


def test_default_views_are_the_papers():
    crops = MultiCrop()
    assert [view.size for view in crops.global_views + crops.local_views] == [224] * 2 + [96] * 6
    assert {view.area for view in crops.global_views} == {(0.2, 1.0)}
    assert {view.area for view in crops.local_views} == {(0.08, 0.3)}
    assert ASPECT_RATIO == (3 / 4, 4 / 3)
