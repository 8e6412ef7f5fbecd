"""Colour jitter, greyscale, blur and solarize of a view, in two ways.

``apply_to_view`` works on one uint8 view on the CPU, ``apply`` on a whole batch on any device. Both
do what the drawn numbers say, up to the rounding to 8 bits between operations that only the first
has.
"""

import functools
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's RGB values in [0, 1]
STD = (0.229, 0.224, 0.225)
BLUR_RADIUS = (0.1, 2.0)  # standard deviation in pixels of the resized view
SOLARIZE_THRESHOLD = 128
LUMA = (0.299, 0.587, 0.114)  # of R, G, B in grey
STEPS = ("brightness", "contrast", "saturation", "hue")
ORDERS = tuple(itertools.permutations(range(len(STEPS))))
BLUR_REACH = math.ceil(3 * BLUR_RADIUS[1])  # pixels to either side that a blur looks at


@dataclass(frozen=True, kw_only=True)
class Colours:
    """How a view's colours may change: probabilities, and the strengths of the jitter's steps."""

    jitter: float = 0.0
    strength: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # in the order of STEPS
    grayscale: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0


class Photometry(NamedTuple):
    """What is done to one view, as numbers that fit into a row of a float32 tensor."""

    order: float  # of the jitter's steps, an index of ORDERS; -1: no jitter
    brightness: float  # factors
    contrast: float
    saturation: float
    hue: float  # share of the colour circle
    grayscale: float  # 0 or 1
    blur: float  # radius; 0: none
    solarize: float  # 0 or 1


UNCHANGED = Photometry(-1, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)


def draw(colours: Colours, rng: random.Random) -> Photometry:
    """One view's numbers."""
    jitter = rng.random() < colours.jitter
    *factors, hue = colours.strength
    return Photometry(
        rng.randrange(len(ORDERS)) if jitter else -1,
        *(rng.uniform(1 - strength, 1 + strength) for strength in factors),
        rng.uniform(-hue, hue),
        grayscale=float(rng.random() < colours.grayscale),
        blur=rng.uniform(*BLUR_RADIUS) if rng.random() < colours.blur else 0.0,
        solarize=float(rng.random() < colours.solarize),
    )


def normalize(images: torch.Tensor) -> torch.Tensor:
    """(...,3,H,W) in [0, 1] → float32 with ImageNet's mean and standard deviation taken out."""
    mean, std = _mean_and_std(images.device)
    return (images - mean) / std


@functools.cache  # a copy to the device would make the host wait for it at every step
def _mean_and_std(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))


# ---------------------------------------------------------------------------------------------
# One view on the CPU


def apply_to_view(pixels: np.ndarray, numbers: Photometry) -> np.ndarray:
    """RGB uint8 (H,W,3) → the same, changed as ``numbers`` say."""
    if numbers.order >= 0:
        amounts = numbers[1 : 1 + len(STEPS)]
        for step in ORDERS[int(numbers.order)]:
            pixels = _ADJUST[step](pixels, amounts[step])
    if numbers.grayscale:
        pixels = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if numbers.blur:
        size = (2 * BLUR_REACH + 1,) * 2
        pixels = cv2.GaussianBlur(pixels, size, numbers.blur, borderType=cv2.BORDER_REPLICATE)
    if numbers.solarize:
        pixels = cv2.LUT(pixels, _SOLARIZED)
    return pixels


def _brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    return cv2.LUT(pixels, _table(factor * _LEVELS))


def _contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    mean = round(cv2.mean(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[0])
    return cv2.LUT(pixels, _table(mean + factor * (_LEVELS - mean)))


def _saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    return cv2.transform(pixels, factor * np.eye(3) + (1 - factor) * np.array([LUMA] * 3))


def _hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)  # a circle of 256 hues
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)  # cut off, as Pillow does


_LEVELS = np.arange(256, dtype=np.float64)
_SOLARIZED = _table(np.where(_LEVELS < SOLARIZE_THRESHOLD, _LEVELS, 255 - _LEVELS))
_ADJUST = (_brightness, _contrast, _saturation, _hue)


# ---------------------------------------------------------------------------------------------
# A batch on any device: no step asks what the numbers are, so that nothing waits for the device and
# a compiler can put the steps into one another. Images are (N,H,W,3) here, as they lie in memory.


class Tables(NamedTuple):
    """Constants on a device."""

    slots: torch.Tensor  # (25,6,3): which of brightness, contrast, saturation six slots are
    luma: torch.Tensor  # (3,)
    scale: torch.Tensor  # (3,): times the images, plus the offset: normalized
    offset: torch.Tensor


SLOTS = 6  # three steps before the hue's and three after it, of which a view's order leaves three


@functools.cache  # a copy to the device would make the host wait for it at every step
def tables(device: torch.device) -> Tables:
    """The constants; the slots of a view without jitter, the last ones, are all empty."""
    slots = torch.zeros(len(ORDERS) + 1, SLOTS, len(STEPS) - 1)
    for n, order in enumerate(ORDERS):
        turn = order.index(STEPS.index("hue"))
        for place, step in enumerate(order):
            if place != turn:
                slots[n, place if place < turn else place + 2, step] = 1
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return Tables(*(t.to(device) for t in (slots, torch.tensor(LUMA), 1 / std, -mean / std)))


class Changes(NamedTuple):
    """What is done to N views, from their rows of ``Photometry``."""

    strengths: torch.Tensor  # (N,6,1,1) of the slots; 1 changes nothing
    stretched: torch.Tensor  # (N,6,1,1): 1 where a slot is the contrast's, else 0
    saturated: torch.Tensor  # (N,6,1,1)
    shift: torch.Tensor  # (N,1,1,1) of the hue; also those below
    gray: torch.Tensor
    radius: torch.Tensor
    solarized: torch.Tensor


def apply(pixels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """uint8 (N,3,H,W) → float32 in [0, 1], each view changed as its row of ``numbers`` says.

    numbers: (N,8) float32 on the same device, rows of ``Photometry``.
    """
    constants = tables(pixels.device)
    return _change(pixels, _changes(numbers, constants), constants).permute(0, 3, 1, 2)


def prepare(
    crops: Sequence[torch.Tensor], numbers: torch.Tensor, constants: Tables, dtype: torch.dtype
) -> list[torch.Tensor]:
    """As ``apply`` for crops of several sizes, and normalized, in ``dtype``.

    crops: uint8 (N,3,S,S) each; numbers: rows of all of them; constants: ``tables`` of the device.
    """
    sizes = [len(pixels) for pixels in crops]
    changes = zip(*(each.split(sizes) for each in _changes(numbers, constants)), strict=True)
    images = [
        _change(pixels, Changes(*each), constants)
        for pixels, each in zip(crops, changes, strict=True)
    ]
    normalized = (torch.addcmul(constants.offset, each, constants.scale) for each in images)
    return [each.to(dtype).permute(0, 3, 1, 2) for each in normalized]


def _changes(numbers: torch.Tensor, constants: Tables) -> Changes:
    order, _, _, _, hue, gray, radius, solarized = numbers[..., None, None, None].unbind(1)
    slots = constants.slots[numbers[:, 0].long(), ..., None]  # (N,6,3,1)
    strengths = 1 + (slots * (numbers[:, None, 1:4, None] - 1)).sum(dim=2, keepdim=True)
    return Changes(
        strengths,
        slots[:, :, 1:2],
        slots[:, :, 2:],
        torch.where(order < 0, 0, hue),
        gray,
        radius,
        solarized,
    )


def _change(pixels: torch.Tensor, changes: Changes, constants: Tables) -> torch.Tensor:
    images = pixels.permute(0, 2, 3, 1) / 255
    for slot in range(SLOTS):
        if slot == SLOTS // 2:
            images = _turn(images, changes.shift)
        strength, stretched, saturated = (each[:, slot, :, None] for each in changes[:3])
        luma = _luma(images, constants)
        base = torch.addcmul(stretched * luma.mean(dim=(1, 2, 3), keepdim=True), saturated, luma)
        images = torch.lerp(base, images, strength).clamp_(0, 1)
    images = torch.lerp(images, _luma(images, constants), changes.gray)
    images = _blur(images, changes.radius)
    mirrored = (images * 255 >= SOLARIZE_THRESHOLD) & (changes.solarized > 0)
    return torch.where(mirrored, 1 - images, images)


def _luma(images: torch.Tensor, constants: Tables) -> torch.Tensor:
    return (images @ constants.luma)[..., None]


def _turn(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The hue, with saturation and value of HSV kept."""
    value, least = images.amax(dim=3, keepdim=True), images.amin(dim=3, keepdim=True)
    chroma = value - least
    red, green, blue = images.split(1, dim=3)
    is_red, is_green = value == red, value == green
    distance = torch.where(is_red, green - blue, torch.where(is_green, blue - red, red - green))
    sixth = torch.where(is_red, 0, torch.where(is_green, 2.0, 4.0)) + 6 * shift
    sixth = torch.addcdiv(sixth, distance, chroma.clamp(min=1e-8))
    # The channel that hue h leaves: value - chroma * clamp(min(k, 4 - k), 0, 1), k = n + h mod 6
    k = (sixth + (5 - 2 * torch.arange(3, device=images.device))) % 6  # n is 5, 3, 1
    return torch.addcmul(value, chroma, torch.minimum(k, 4 - k).clamp(0, 1), value=-1)


def _blur(images: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """A Gaussian of each view's own radius, one direction after the other; edges are repeated."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / radius.clamp(min=1e-3)) ** 2)  # of 0: nothing is mixed
    kernel = kernel / kernel.sum(dim=3, keepdim=True)  # (N,1,1,13)
    rim = (0, 0, *[BLUR_REACH] * 4)
    planes = F.pad(images[None], rim, mode="replicate").flatten(3)  # (1,N,H+12,3·(W+12))
    planes = F.conv2d(planes, kernel.transpose(2, 3), groups=len(images))
    planes = F.conv2d(planes, kernel, dilation=(1, 3), groups=len(images))
    return planes.view(images.shape)
