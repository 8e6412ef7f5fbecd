"""Views: golden crops, boxes and pixels of the released code; probabilities by counting."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from pretrain.augment import (
    ASPECT_RATIO,
    MultiCrop,
    color_jitter,
    crop_box,
    make_view,
    normalize,
    sample_crop,
)

GOLDEN = Path(__file__).parents[1] / "golden"


def noise_image(width=60, height=40, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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


def test_resized_and_normalized_pixels_equal_the_released_code(monkeypatch):
    with np.load(GOLDEN / "coords_pixels.npz") as file:
        golden = {name: file[name] for name in file.files}
    image = Image.fromarray(golden["image_hwc"].astype(np.uint8))
    from pretrain import augment

    size = int(golden["out_size"])
    for n, ((top, left, height, width), flip) in enumerate(
        zip(golden["box_ijhw"].tolist(), golden["flip"].tolist(), strict=True)
    ):
        monkeypatch.setattr(augment, "sample_crop", lambda *_, c=(top, left, height, width): c)
        monkeypatch.setattr(augment, "FLIP", float(flip))
        monkeypatch.setattr(augment, "JITTER", 0.0)
        monkeypatch.setattr(augment, "GRAYSCALE", 0.0)
        view = augment.View(size, (0.2, 1.0), blur=0.0)
        pixels, box = make_view(image, view, random.Random(n))
        np.testing.assert_array_equal(pixels.permute(1, 2, 0), golden["resized_hwc"][n])
        np.testing.assert_allclose(normalize(pixels), golden["normalized_chw"][n], atol=1e-6)
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
    global_crops, local_crops, boxes = MultiCrop(32, num_locals=num_locals, local_size=16)(
        noise_image(), random.Random(0)
    )
    assert global_crops.shape == (2, 3, 32, 32)
    assert global_crops.dtype == torch.uint8
    assert len(local_crops) == num_locals
    assert local_crops.shape[1:] == ((3, 16, 16) if num_locals else (3, 0, 0))
    assert boxes.shape == (2 + num_locals, 4)


def test_each_operation_comes_as_often_as_the_specification_says(monkeypatch):
    from pretrain import augment

    counts = dict.fromkeys(("mirror", "jitter", "gray", "blur", "solarize"), 0)

    def counting(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(augment.ImageOps, "mirror", counting("mirror", ImageOps.mirror))
    monkeypatch.setattr(augment.ImageOps, "solarize", counting("solarize", ImageOps.solarize))
    monkeypatch.setattr(augment, "color_jitter", counting("jitter", lambda image, _: image))
    monkeypatch.setattr(
        augment.TF, "to_grayscale", counting("gray", lambda image, num_output_channels: image)
    )
    monkeypatch.setattr(
        augment.ImageFilter, "GaussianBlur", counting("blur", augment.ImageFilter.GaussianBlur)
    )
    crops = MultiCrop(8, num_locals=6, local_size=8)
    first, second = crops.global_views
    n, image = 2000, noise_image(12, 12)
    expected = {
        first: (0.5, 0.8, 0.2, 1.0, 0.0),
        second: (0.5, 0.8, 0.2, 0.1, 0.2),
        crops.local_views[0]: (0.5, 0.8, 0.2, 0.5, 0.0),
    }
    rng = random.Random(0)
    for view, probabilities in expected.items():
        counts.update(dict.fromkeys(counts, 0))
        for _ in range(n):
            make_view(image, view, rng)
        for (name, count), probability in zip(counts.items(), probabilities, strict=True):
            deviation = (n * probability * (1 - probability)) ** 0.5
            assert abs(count - n * probability) <= 4 * deviation, (view, name, count)


def test_default_views_are_the_papers():
    crops = MultiCrop()
    assert [view.size for view in crops.global_views + crops.local_views] == [224] * 2 + [96] * 6
    assert {view.area for view in crops.global_views} == {(0.2, 1.0)}
    assert {view.area for view in crops.local_views} == {(0.08, 0.3)}
    assert ASPECT_RATIO == (3 / 4, 4 / 3)


def test_jitter_applies_its_steps_in_random_order(monkeypatch):
    from pretrain import augment

    orders = set()
    names = ("brightness", "contrast", "saturation", "hue")
    for name in names:
        monkeypatch.setattr(
            augment.TF, f"adjust_{name}", lambda image, amount, n=name: [*image, (n, amount)]
        )
    rng = random.Random(0)
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
    }
    for _ in range(500):
        steps = color_jitter([], rng)
        orders.add(tuple(name for name, _ in steps))
        assert all(ranges[name][0] <= amount <= ranges[name][1] for name, amount in steps)
    assert len(orders) == 24
