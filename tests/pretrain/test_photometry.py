"""Both ways of changing colours against Pillow and torchvision, and against each other."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps

from pretrain import photometry
from pretrain.augment import MultiCrop
from pretrain.photometry import ORDERS, STEPS, Photometry, apply, apply_to_view, draw

NOTHING = Photometry(-1, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
CLOSE = 2 / 255  # mean absolute difference, of values in [0, 1]


def picture(seed, size=64):
    """Smooth colours with edges and some noise, as photographs have them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.array(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=float)
    smooth[: size // 2, : size // 3] = rng.integers(0, 256, 3)
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def both(pixels, numbers):
    """The results of the two ways, float in [0, 1], (H,W,3)."""
    on_cpu = apply_to_view(pixels, numbers) / 255
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    batched = apply(batch, torch.tensor([numbers]))[0].permute(1, 2, 0).numpy()
    return {"one view": on_cpu, "batch": batched}


def only(step, amount):
    order = next(n for n, order in enumerate(ORDERS) if order[0] == STEPS.index(step))
    return NOTHING._replace(order=order, **{step: amount})


def adjusted(step, amount):
    return lambda image: getattr(TF, f"adjust_{step}")(image, amount)


PILLOW = {
    **{
        f"{step} {amount}": (only(step, amount), adjusted(step, amount))
        for step, amounts in {
            "brightness": (0.6, 0.83, 1.4),
            "contrast": (0.6, 0.9, 1.4),
            "saturation": (0.8, 1.07, 1.2),
            "hue": (-0.1, -0.03, 0.05, 0.1),
        }.items()
        for amount in amounts
    },
    "grayscale": (NOTHING._replace(grayscale=1.0), lambda image: TF.to_grayscale(image, 3)),
    "solarize": (NOTHING._replace(solarize=1.0), lambda image: ImageOps.solarize(image, 128)),
    **{
        f"blur {radius}": (
            NOTHING._replace(blur=radius),
            lambda image, radius=radius: image.filter(ImageFilter.GaussianBlur(radius)),
        )
        for radius in (0.1, 0.5, 1.0, 1.5, 2.0)
    },
}


@pytest.mark.parametrize("name", PILLOW)
def test_every_operation_is_pillows_within_two_levels(name):
    numbers, by_pillow = PILLOW[name]
    for seed in range(5):
        pixels = picture(seed)
        expected = np.array(by_pillow(Image.fromarray(pixels))) / 255
        for way, found in both(pixels, numbers).items():
            assert np.abs(found - expected).mean() <= CLOSE, (way, seed)


@pytest.mark.parametrize("seed", range(20))
def test_both_ways_agree_on_whatever_is_drawn(seed):
    numbers = draw(blur=0.5, solarize=0.2, rng=random.Random(seed))
    pixels = picture(seed)
    ways = both(pixels, numbers)
    assert np.abs(ways["one view"] - ways["batch"]).mean() <= CLOSE


def test_a_batch_is_its_views_one_by_one():
    rng = random.Random(0)
    numbers = torch.tensor([draw(0.5, 0.5, rng) for _ in range(40)])
    pixels = torch.stack([torch.from_numpy(picture(n, 32)).permute(2, 0, 1) for n in range(40)])
    together = apply(pixels, numbers)
    for n in range(40):
        torch.testing.assert_close(together[n], apply(pixels[n : n + 1], numbers[n : n + 1])[0])


def test_nothing_drawn_changes_nothing():
    pixels = picture(0)
    for found in both(pixels, NOTHING).values():
        np.testing.assert_allclose(found, pixels / 255, atol=1e-7)


def test_the_order_of_the_jitters_steps_matters_and_all_24_are_drawn():
    rng = random.Random(0)
    drawn = {draw(0.0, 0.0, rng).order for _ in range(1000)}
    assert drawn == {-1, *range(24)}
    pixels = picture(1)
    amounts = {"brightness": 1.4, "contrast": 1.4, "saturation": 1.2, "hue": 0.1}
    for way in ("one view", "batch"):
        found = [both(pixels, NOTHING._replace(order=n, **amounts))[way] for n in range(24)]
        first = next(n for n, order in enumerate(ORDERS) if order[0] == 0 and order[1] == 1)
        other = next(n for n, order in enumerate(ORDERS) if order[0] == 1 and order[1] == 0)
        assert np.abs(found[first] - found[other]).max() > 0.01


def test_each_operation_comes_as_often_as_the_specification_says():
    crops = MultiCrop()
    expected = {
        crops.global_views[0]: {"jitter": 0.8, "grayscale": 0.2, "blur": 1.0, "solarize": 0.0},
        crops.global_views[1]: {"jitter": 0.8, "grayscale": 0.2, "blur": 0.1, "solarize": 0.2},
        crops.local_views[0]: {"jitter": 0.8, "grayscale": 0.2, "blur": 0.5, "solarize": 0.0},
    }
    rng, n = random.Random(0), 4000
    for view, probabilities in expected.items():
        drawn = [draw(view.blur, view.solarize, rng) for _ in range(n)]
        for name, probability in probabilities.items():
            count = sum(
                each.order >= 0 if name == "jitter" else getattr(each, name) > 0 for each in drawn
            )
            deviation = (n * probability * (1 - probability)) ** 0.5
            assert abs(count - n * probability) <= 4 * deviation, (view, name, count)


def test_amounts_are_drawn_from_the_specifications_ranges():
    rng = random.Random(0)
    drawn = [draw(1.0, 0.0, rng) for _ in range(4000)]
    ranges = {
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "saturation": (0.8, 1.2),
        "hue": (-0.1, 0.1),
        "blur": (0.1, 2.0),
    }
    for name, (low, high) in ranges.items():
        values = np.array([getattr(each, name) for each in drawn])
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)


def test_the_paper_normalizes_by_imagenets_mean_and_std():
    gray = photometry.normalize(torch.full((2, 3, 4, 4), 0.5))
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(gray, expected.view(1, 3, 1, 1).expand(2, 3, 4, 4))
