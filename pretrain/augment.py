"""Multi-crop views and the boxes they were cut from (clove.md sections 6 and 8)."""

import functools
import math
import random
from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageFilter, ImageOps

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's RGB values in [0, 1]
STD = (0.229, 0.224, 0.225)
ASPECT_RATIO = (3 / 4, 4 / 3)  # width / height, log-uniform
FLIP = 0.5
JITTER, BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.8, 0.4, 0.4, 0.2, 0.1
GRAYSCALE = 0.2
BLUR_RADIUS = (0.1, 2.0)  # pixels of the resized view, Pillow's meaning
SOLARIZE_THRESHOLD = 128


@dataclass(frozen=True)
class View:
    """How one view is made: side in pixels, share of the image's area, probabilities."""

    size: int
    area: tuple[float, float]
    blur: float
    solarize: float = 0.0


class MultiCrop:
    """Two global views and ``num_locals`` local ones of an image, with their boxes."""

    def __init__(
        self,
        global_size: int = 224,
        global_area: tuple[float, float] = (0.2, 1.0),
        num_locals: int = 6,
        local_size: int = 96,
        local_area: tuple[float, float] = (0.08, 0.3),
    ) -> None:
        self.global_views = (
            View(global_size, global_area, blur=1.0),
            View(global_size, global_area, blur=0.1, solarize=0.2),
        )
        self.local_views = (View(local_size, local_area, blur=0.5),) * num_locals

    def __call__(
        self, image: Image.Image, rng: random.Random
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """RGB image → global (2,3,S,S) and local (V,3,s,s) uint8, boxes (2+V,4) float32."""
        views = [make_view(image, view, rng) for view in self.global_views + self.local_views]
        crops = [crop for crop, _ in views]
        boxes = torch.tensor([box for _, box in views], dtype=torch.float32)
        no_locals = torch.empty(0, 3, 0, 0, dtype=torch.uint8)
        return torch.stack(crops[:2]), torch.stack(crops[2:]) if crops[2:] else no_locals, boxes


def make_view(
    image: Image.Image, view: View, rng: random.Random
) -> tuple[torch.Tensor, tuple[float, float, float, float]]:
    """One view (3,size,size) uint8 of an RGB image, and the box it was cut from."""
    width, height = image.size
    top, left, crop_height, crop_width = sample_crop(width, height, view.area, rng)
    crop = image.crop((left, top, left + crop_width, top + crop_height))
    crop = crop.resize((view.size, view.size), Image.Resampling.BICUBIC)
    flipped = rng.random() < FLIP
    if flipped:
        crop = ImageOps.mirror(crop)
    if rng.random() < JITTER:
        crop = color_jitter(crop, rng)
    if rng.random() < GRAYSCALE:
        crop = TF.to_grayscale(crop, num_output_channels=3)
    if rng.random() < view.blur:
        crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_RADIUS)))
    if rng.random() < view.solarize:
        crop = ImageOps.solarize(crop, SOLARIZE_THRESHOLD)
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous()
    return pixels, crop_box(top, left, crop_height, crop_width, height, width, flipped)


def sample_crop(
    width: int, height: int, area: tuple[float, float], rng: random.Random
) -> tuple[int, int, int, int]:
    """Top, left, height, width in pixels of a random crop with ``area`` of the image's area.

    Ten tries, then the largest centred crop whose ratio lies within ASPECT_RATIO.
    """
    low, high = ASPECT_RATIO
    for _ in range(10):
        target = rng.uniform(*area) * width * height
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        crop_width, crop_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = rng.randint(0, height - crop_height)
            left = rng.randint(0, width - crop_width)
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width / height < low:
        crop_height = round(width / low)
    elif width / height > high:
        crop_width = round(height * high)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def crop_box(
    top: int, left: int, height: int, width: int, image_height: int, image_width: int, flipped: bool
) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a crop, in units of the image's extent between its outer pixel centres.

    All arguments in pixels; the whole image is (0, 0, 1, 1). A flipped crop has x0 > x1. Raises
    ValueError for an image of one pixel in width or height, which has no extent.
    """
    if image_width < 2 or image_height < 2:
        raise ValueError(
            f"an image of {image_width}x{image_height} pixels has no extent to place a crop in: "
            "remove it from the data"
        )
    x0, y0 = left / (image_width - 1), top / (image_height - 1)
    x1, y1 = (left + width - 1) / (image_width - 1), (top + height - 1) / (image_height - 1)
    return (x1, y0, x0, y1) if flipped else (x0, y0, x1, y1)


def color_jitter(image: Image.Image, rng: random.Random) -> Image.Image:
    """Brightness, contrast, saturation and hue by random amounts, in random order."""
    steps = [
        (TF.adjust_brightness, rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)),
        (TF.adjust_contrast, rng.uniform(1 - CONTRAST, 1 + CONTRAST)),
        (TF.adjust_saturation, rng.uniform(1 - SATURATION, 1 + SATURATION)),
        (TF.adjust_hue, rng.uniform(-HUE, HUE)),
    ]
    rng.shuffle(steps)
    for adjust, amount in steps:
        image = adjust(image, amount)
    return image


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (...,3,H,W) → float32 with ImageNet's mean and standard deviation taken out."""
    mean, std = _mean_and_std(pixels.device)
    return (pixels.float() / 255 - mean) / std


@functools.cache  # a copy to the device would make the host wait for it at every step
def _mean_and_std(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
