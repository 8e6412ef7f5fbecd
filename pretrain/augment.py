"""Multi-crop views and the boxes they were cut from (clove.md sections 6 and 8)."""

import math
import random
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from pretrain.photometry import apply_to_view, draw

ASPECT_RATIO = (3 / 4, 4 / 3)  # width / height, log-uniform
FLIP = 0.5


@dataclass(frozen=True)
class View:
    """How one view is made: side in pixels, share of the image's area, probabilities."""

    size: int
    area: tuple[float, float]
    blur: float
    solarize: float = 0.0


class Views(NamedTuple):
    """The views of one image. Crops are (3,S,S) by shape and (S,S,3) in memory."""

    global_crops: torch.Tensor  # (2,3,S,S) uint8
    local_crops: torch.Tensor  # (V,3,s,s) uint8
    boxes: torch.Tensor  # (2+V,4) float32
    photometry: torch.Tensor  # (2+V,8) float32, rows of Photometry


class MultiCrop:
    """Two global views and ``num_locals`` local ones of an image, with their boxes.

    ``photometry``: whether colours are changed here; otherwise the crops come as they were cut,
    with the numbers that ``photometry.apply`` takes.
    """

    def __init__(
        self,
        global_size: int = 224,
        global_area: tuple[float, float] = (0.2, 1.0),
        num_locals: int = 6,
        local_size: int = 96,
        local_area: tuple[float, float] = (0.08, 0.3),
        photometry: bool = True,
    ) -> None:
        self.global_views = (
            View(global_size, global_area, blur=1.0),
            View(global_size, global_area, blur=0.1, solarize=0.2),
        )
        self.local_views = (View(local_size, local_area, blur=0.5),) * num_locals
        self.photometry = photometry

    def __call__(self, image: torch.Tensor, rng: random.Random) -> Views:
        """The views of an RGB image (3,H,W) uint8, drawn from ``rng`` alone."""
        crops, boxes, numbers = [], [], []
        for view in self.global_views + self.local_views:
            crop, box = cut_view(image, view, rng)
            numbers.append(draw(view.blur, view.solarize, rng))
            crops.append(apply_to_view(crop, numbers[-1]) if self.photometry else crop)
            boxes.append(box)
        return Views(
            _stack(crops[:2]), _stack(crops[2:]), torch.tensor(boxes), torch.tensor(numbers)
        )


def cut_view(
    image: torch.Tensor, view: View, rng: random.Random
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """One crop, resized and perhaps flipped, (size,size,3) uint8, and the box it was cut from."""
    image_height, image_width = image.shape[1:]
    top, left, height, width = sample_crop(image_width, image_height, view.area, rng)
    crop = image[None, :, top : top + height, left : left + width]
    crop = crop.contiguous(memory_format=torch.channels_last)  # as one block, it resizes faster
    crop = F.interpolate(crop, (view.size, view.size), mode="bicubic", antialias=True)
    pixels = crop[0].permute(1, 2, 0).contiguous().numpy()
    flipped = rng.random() < FLIP
    if flipped:
        pixels = cv2.flip(pixels, 1)
    return pixels, crop_box(top, left, height, width, image_height, image_width, flipped)


def _stack(crops: list[np.ndarray]) -> torch.Tensor:
    if not crops:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


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
