"""Colour jitter, greyscale, blur and solarize of a view, in two ways.

``apply_to_view`` works on one uint8 view on the CPU, ``apply`` on a whole batch on any device. Both
do what the drawn numbers say, up to the rounding to 8 bits between operations that only the first
has.
"""

import functools
import itertools
import math
import random
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
# A batch on any device


def apply(pixels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """uint8 (N,3,H,W) → float32 in [0, 1], each view changed as its row of ``numbers`` says.

    numbers: (N,8) float32 on the CPU, rows of ``Photometry``: which views an operation takes is
    known to the host, so nothing waits for the device.
    """
    images = pixels.float() / 255
    order = torch.tensor(ORDERS)[numbers[:, 0].long()]  # (N,4); of views without jitter unused
    jittered = numbers[:, 0] >= 0
    for place in range(len(STEPS)):
        for step, adjust in enumerate((_brighten, _stretch, _saturate, _turn)):
            chosen = (jittered & (order[:, place] == step)).nonzero()[:, 0]
            _change(images, chosen, adjust, numbers[chosen, 1 + step])
    for column, change in ((5, _gray), (6, _blur), (7, _solarize)):
        chosen = numbers[:, column].nonzero()[:, 0]
        _change(images, chosen, change, numbers[chosen, column])
    return images


def _change(images: torch.Tensor, chosen: torch.Tensor, change, amounts: torch.Tensor) -> None:
    """In place, on the rows ``chosen``."""
    if len(chosen):
        chosen = chosen.to(images.device, non_blocking=True)
        amounts = amounts.to(images.device, non_blocking=True)[:, None, None, None]
        images[chosen] = change(images[chosen], amounts)


def _luma(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _brighten(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (images * factor).clamp(0, 1)


def _stretch(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = _luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return (mean + factor * (images - mean)).clamp(0, 1)


def _saturate(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    gray = _luma(images)
    return (gray + factor * (images - gray)).clamp(0, 1)


def _turn(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """The hue, with saturation and value of HSV kept."""
    value, chroma = images.amax(dim=1, keepdim=True), images.amax(1, True) - images.amin(1, True)
    red, green, blue = images.split(1, dim=1)
    safe = chroma.clamp(min=1e-8)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixth = sixth + 6 * shift
    # The channel that hue h leaves: value - chroma * clamp(min(k, 4 - k), 0, 1), k = n + h mod 6
    n = 5 - 2 * torch.arange(3, device=images.device).view(1, 3, 1, 1)  # 5, 3, 1
    k = (n + sixth) % 6
    return value - chroma * torch.minimum(k, 4 - k).clamp(0, 1)


def _gray(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return _luma(images).expand_as(images)


def _blur(images: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """A Gaussian of each view's own radius, one direction after the other; edges are repeated."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / radius.view(-1, 1)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    planes = images.reshape(1, count * channels, height, width)
    planes = F.pad(planes, (BLUR_REACH, BLUR_REACH, BLUR_REACH, BLUR_REACH), mode="replicate")
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=count * channels)
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=count * channels)
    return planes.view(images.shape)


def _solarize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return torch.where(images * 255 < SOLARIZE_THRESHOLD, images, 1 - images)
