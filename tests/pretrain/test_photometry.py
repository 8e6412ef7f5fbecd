"""Both ways of changing colours against Pillow and torchvision, and against each other."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps

from pretrain import photometry
from pretrain.augment import MultiCrop
from pretrain.config import get_cfg
from pretrain.photometry import ORDERS, STEPS, UNCHANGED, Colours, apply, apply_to_view, draw

COLOURS = Colours(jitter=0.8, strength=(0.4, 0.4, 0.2, 0.1), grayscale=0.2, blur=0.5, solarize=0.5)
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
    return UNCHANGED._replace(order=order, **{step: amount})


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
    "grayscale": (UNCHANGED._replace(grayscale=1.0), lambda image: TF.to_grayscale(image, 3)),
    "solarize": (UNCHANGED._replace(solarize=1.0), lambda image: ImageOps.solarize(image, 128)),
    **{
        f"blur {radius}": (
            UNCHANGED._replace(blur=radius),
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
    numbers = draw(COLOURS, random.Random(seed))
    pixels = picture(seed)
    ways = both(pixels, numbers)
    assert np.abs(ways["one view"] - ways["batch"]).mean() <= CLOSE


def test_a_batch_is_its_views_one_by_one():
    rng = random.Random(0)
    numbers = torch.tensor([draw(COLOURS, rng) for _ in range(40)])
    pixels = torch.stack([torch.from_numpy(picture(n, 32)).permute(2, 0, 1) for n in range(40)])
    together = apply(pixels, numbers)
    for n in range(40):
        torch.testing.assert_close(together[n], apply(pixels[n : n + 1], numbers[n : n + 1])[0])


def test_crops_of_two_sizes_are_one_graph_and_come_normalized_in_the_asked_type():
    rng = random.Random(0)
    numbers = torch.tensor([draw(COLOURS, rng) for _ in range(10)])
    crops = [
        torch.stack([torch.from_numpy(picture(n, size)).permute(2, 0, 1) for n in range(count)])
        for count, size in ((4, 48), (6, 32))
    ]
    prepare = torch.compile(photometry.prepare, fullgraph=True, dynamic=False, backend="aot_eager")
    found = prepare(crops, numbers, photometry.tables(numbers.device), torch.bfloat16)
    for views, pixels, own in zip(found, crops, numbers.split([4, 6]), strict=True):
        assert views.dtype == torch.bfloat16
        assert views.is_contiguous(memory_format=torch.channels_last)
        expected = photometry.normalize(apply(pixels, own))
        torch.testing.assert_close(views.float(), expected, rtol=2**-8, atol=1e-5)


def test_the_order_of_the_jitters_steps_matters_and_all_24_are_drawn():
    rng = random.Random(0)
    drawn = {draw(COLOURS, rng).order for _ in range(1000)}
    assert drawn == {-1, *range(24)}
    pixels = picture(1)
    amounts = {"brightness": 1.4, "contrast": 1.4, "saturation": 1.2, "hue": 0.1}
    for way in ("one view", "batch"):
        found = [both(pixels, UNCHANGED._replace(order=n, **amounts))[way] for n in range(24)]
        first = next(n for n, order in enumerate(ORDERS) if order[0] == 0 and order[1] == 1)
        other = next(n for n, order in enumerate(ORDERS) if order[0] == 1 and order[1] == 0)
        assert np.abs(found[first] - found[other]).max() > 0.01


def test_each_operation_comes_as_often_as_the_paper_says():
    crops = MultiCrop(get_cfg().CROPS)
    kinds = [*crops.global_views, crops.local_views[0]]
    rng, n = random.Random(0), 4000
    for view, blur, solarize in zip(kinds, (1.0, 0.1, 0.5), (0.0, 0.2, 0.0), strict=True):
        drawn = np.array([draw(view, rng) for _ in range(n)])
        happened = np.column_stack([drawn[:, 0] >= 0, drawn[:, 5:] > 0]).sum(axis=0)
        expected = np.array([0.8, 0.2, blur, solarize])
        deviation = (n * expected * (1 - expected)) ** 0.5
        assert (np.abs(happened - n * expected) <= 4 * deviation).all(), (view, happened)


def test_amounts_are_drawn_from_the_papers_ranges():
    rng, strong = random.Random(0), Colours(strength=(0.4, 0.4, 0.2, 0.1), blur=1.0)
    drawn = np.array([draw(strong, rng) for _ in range(4000)])
    low = np.array([0.6, 0.6, 0.8, -0.1, 0.1])
    high = np.array([1.4, 1.4, 1.2, 0.1, 2.0])
    values = drawn[:, [1, 2, 3, 4, 6]]
    for found, bound in ((values.min(axis=0), low), (values.max(axis=0), high)):
        assert (np.abs(found - bound) < 0.01 * (high - low)).all()
    assert (np.clip(values, low, high) == values).all()
    assert (np.abs(values.mean(axis=0) - (low + high) / 2) < 0.03 * (high - low)).all()


def test_the_paper_normalizes_by_imagenets_mean_and_std():
    gray = photometry.normalize(torch.full((2, 3, 4, 4), 0.5))
    expected = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(gray, expected.view(1, 3, 1, 1).expand(2, 3, 4, 4))
