"""The views of an image: where they are cut, how they are flipped, and the boxes they come from."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode

from pretrain.photometry import UNCHANGED, Colours, apply_to_view, draw

ASPECT_RATIO = (3 / 4, 4 / 3)  # width / height, log-uniform
FLIP = 0.5

Place = tuple[int, int, int, int]  # top, left, height, width, in pixels of the image
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class View(Colours):
    """How one view is made: its side in pixels, its share of the image's area, its colours."""

    size: int
    area: tuple[float, float]
    interpolation: str = "bicubic"


class Crop(NamedTuple):
    """Where a view was cut from, in pixels; the arguments of crop_box and edge_box."""

    top: int
    left: int
    height: int
    width: int
    image_height: int
    image_width: int
    flipped: bool


class Views(NamedTuple):
    """The views of one image. Crops are (3,S,S) by shape and (S,S,3) in memory."""

    global_crops: torch.Tensor  # (2,3,S,S) uint8
    local_crops: torch.Tensor  # (V,3,s,s) uint8
    crops: torch.Tensor  # (2+V,7) int64, rows of Crop; patches have that of the view they are of
    photometry: torch.Tensor  # (2+V,8) float32, rows of Photometry


class MultiCrop:
    """The two global views and the local ones that CROPS describes, each with its Crop.

    ``photometry``: whether colours are changed here; otherwise the crops come as they were cut,
    with the numbers that ``photometry.apply`` takes. Those of patches are changed here always, as
    the whole view's colours count.
    """

    def __init__(self, cfg: CfgNode, photometry: bool = True) -> None:
        def view(n: int, size: int, area: tuple[float, float]) -> View:
            jitter = {"jitter": cfg.JITTER, "strength": cfg.JITTER_STRENGTH}
            others = {"grayscale": cfg.GRAYSCALE, "blur": cfg.BLUR[n], "solarize": cfg.SOLARIZE[n]}
            return View(size, area, cfg.INTERPOLATION, **jitter, **others)

        self.global_views = tuple(view(n, cfg.GLOBAL_SIZE, cfg.GLOBAL_AREA) for n in (0, 1))
        self.local_views = (view(2, cfg.LOCAL_SIZE, cfg.LOCAL_AREA),) * cfg.NUM_LOCALS
        self.shared_flip, self.min_overlap = cfg.SHARED_FLIP, cfg.MIN_OVERLAP
        self.patch_size, self.photometry = cfg.PATCH_SIZE, photometry

    def __call__(self, image: torch.Tensor, rng: random.Random) -> Views:
        """The views of an RGB image (3,H,W) uint8, drawn from ``rng`` alone."""
        views, crops, numbers = [], [], []
        for n, view in enumerate(self.global_views + self.local_views):
            crop = self._draw_crop(image, view, rng, crops[0] if n == 1 else None)
            pixels, drawn = cut(image, view, crop), draw(view, rng)
            in_patches = n >= 2 and self.patch_size
            if self.photometry or in_patches:
                pixels = apply_to_view(pixels, drawn)
            cuts = self._draw_patches(pixels, rng) if in_patches else [pixels]
            views += cuts
            crops += [crop] * len(cuts)
            numbers += [UNCHANGED if in_patches else drawn] * len(cuts)
        return Views(
            _stack(views[:2]), _stack(views[2:]), torch.tensor(crops), torch.tensor(numbers)
        )

    def _draw_crop(
        self, image: torch.Tensor, view: View, rng: random.Random, first: Crop | None
    ) -> Crop:
        """``first``: that of the first global view, which the second one's may depend on."""
        height, width = image.shape[1:]
        if first and self.min_overlap:
            place = sample_overlapping_crop(
                width, height, view.area, first[:4], rng, self.min_overlap
            )
        else:
            place = sample_crop(width, height, view.area, rng)
        flipped = first.flipped if first and self.shared_flip else rng.random() < FLIP
        return Crop(*place, height, width, flipped)

    def _draw_patches(self, pixels: np.ndarray, rng: random.Random) -> list[np.ndarray]:
        room = len(pixels) // 3 - self.patch_size
        offsets = torch.tensor([(rng.randint(0, room), rng.randint(0, room)) for _ in range(9)])
        order = torch.tensor(rng.sample(range(9), 9))
        view = torch.from_numpy(pixels).permute(2, 0, 1)
        return list(cut_patches(view, offsets, order, self.patch_size).permute(0, 2, 3, 1).numpy())


def cut_view(image: torch.Tensor, view: View, rng: random.Random) -> tuple[np.ndarray, Box]:
    """A view by itself, its colours as they are: (size,size,3) uint8, and its ``crop_box``."""
    height, width = image.shape[1:]
    place = sample_crop(width, height, view.area, rng)
    crop = Crop(*place, height, width, rng.random() < FLIP)
    return cut(image, view, crop), crop_box(*crop)


def cut(image: torch.Tensor, view: View, crop: Crop) -> np.ndarray:
    """The crop of an image (3,H,W) uint8, resized and perhaps flipped: (size,size,3) uint8."""
    top, left, height, width = crop[:4]
    pixels = image[None, :, top : top + height, left : left + width]
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # as one block, it resizes faster
    pixels = F.interpolate(pixels, (view.size, view.size), mode=view.interpolation, antialias=True)
    pixels = pixels[0].permute(1, 2, 0).contiguous().numpy()
    return cv2.flip(pixels, 1) if crop.flipped else pixels


def cut_patches(
    image: torch.Tensor, offsets: torch.Tensor, order: torch.Tensor, size: int = 64
) -> torch.Tensor:
    """Nine patches (9,3,size,size) of a view (3,S,S), one of each of its 3x3 cells.

    offsets (9,2) int64: from each cell's corner to its patch's, (down, right), cells row by row.
    order (9,) int64: patch p is of cell order[p]. DetCo (arXiv 2102.04803, section 3.4).
    """
    cells = torch.cartesian_prod(torch.arange(3), torch.arange(3)) * (image.shape[-1] // 3)
    corners = (cells + offsets)[order].tolist()
    return torch.stack([image[:, top : top + size, left : left + size] for top, left in corners])


def _stack(crops: list[np.ndarray]) -> torch.Tensor:
    if not crops:
        return torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


# ---------------------------------------------------------------------------------------------
# Where a crop lies


def sample_crop(width: int, height: int, area: tuple[float, float], rng: random.Random) -> Place:
    """Top, left, height, width in pixels of a random crop with ``area`` of the image's area.

    Ten tries, then the largest centred crop whose ratio lies within ASPECT_RATIO.
    """
    for crop, _ in _tries(width, height, area, rng):
        return crop
    low, high = ASPECT_RATIO
    crop_width, crop_height = width, height
    if width / height < low:
        crop_height = round(width / low)
    elif width / height > high:
        crop_width = round(height * high)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def sample_overlapping_crop(
    width: int,
    height: int,
    area: tuple[float, float],
    other: Place,
    rng: random.Random,
    min_overlap: float = 0.01,
) -> Place:
    """As ``sample_crop``, but with ``min_overlap`` of the drawn area in common with ``other``.

    Drawn freely where ten tries give no such crop.
    """
    for crop, drawn in _tries(width, height, area, rng):
        sides = [
            max(min(crop[n] + crop[n + 2], other[n] + other[n + 2]) - max(crop[n], other[n]), 0)
            for n in (0, 1)
        ]
        if math.prod(sides) >= min_overlap * drawn:
            return crop
    return sample_crop(width, height, area, rng)


def _tries(
    width: int, height: int, area: tuple[float, float], rng: random.Random
) -> Iterator[tuple[Place, float]]:
    """Of ten random crops those that fit, with the area that was drawn, in pixels."""
    low, high = ASPECT_RATIO
    for _ in range(10):
        target = rng.uniform(*area) * width * height
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        crop_width, crop_height = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = rng.randint(0, height - crop_height)
            left = rng.randint(0, width - crop_width)
            yield (top, left, crop_height, crop_width), target


def crop_box(
    top: int, left: int, height: int, width: int, image_height: int, image_width: int, flipped: bool
) -> Box:
    """x0, y0, x1, y1 of a crop, in units of the image's extent between its outer pixel centres.

    All arguments in pixels; the whole image is (0, 0, 1, 1). A flipped crop has x0 > x1. Raises
    ValueError for an image of one pixel in width or height, which has no extent.
    """
    if image_width < 2 or image_height < 2:
        raise ValueError(
            f"an image of {image_width}x{image_height} pixels has no extent to place a crop in: "
            "remove it from the data"
        )
    return _box(Crop(top, left, height, width, image_height, image_width, flipped), "centers")


def edge_box(
    top: int, left: int, height: int, width: int, image_height: int, image_width: int, flipped: bool
) -> Box:
    """x0, y0, x1, y1 of a crop's outer edges in pixels of the image; x0 > x1 when flipped."""
    return _box(Crop(top, left, height, width, image_height, image_width, flipped), "edges")


def _box(crop: Crop, kind: str) -> Box:
    return tuple(boxes_of(torch.tensor(crop), kind, torch.float64).tolist())


def boxes_of(crops: torch.Tensor, kind: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of Crop (...,7) → boxes (...,4): those of crop_box ("centers") or edge_box ("edges").

    Computed in float64 on the crops' device, then rounded to ``dtype``.
    """
    top, left, height, width, image_height, image_width, flipped = crops.double().unbind(-1)
    x0, y0, x1, y1 = left, top, left + width, top + height
    if kind == "centers":
        x0, x1 = x0 / (image_width - 1), (x1 - 1) / (image_width - 1)
        y0, y1 = y0 / (image_height - 1), (y1 - 1) / (image_height - 1)
    mirrored = flipped > 0
    return torch.stack([x1.where(mirrored, x0), y0, x0.where(mirrored, x1), y1], dim=-1).to(dtype)
