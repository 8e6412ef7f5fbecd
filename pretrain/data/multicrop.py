"""Images as multi-crop samples; unreadable ones are replaced, and reported."""

import io
import random
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from pretrain.augment import MultiCrop, Views
from pretrain.data.folder import DataError, Images
from pretrain.runtime.images import require_full_colours, to_8_bits


class Batch(NamedTuple):
    """View-major: V local views of B images. Crops have their channels last in memory."""

    global_crops: torch.Tensor  # (2,B,3,S,S) uint8
    local_crops: torch.Tensor  # (V,B,3,s,s) uint8
    crops: torch.Tensor  # (2+V,B,7) int64, rows of Crop
    photometry: torch.Tensor  # (2+V,B,8) float32
    images: list[int]  # whose views these are
    bad: list[int]  # images that could not be read and were replaced


class MultiCropImages(torch.utils.data.Dataset):
    """Sample (epoch, index) → views of one image, drawn from (seed, epoch, index) alone."""

    TRIES = 20

    def __init__(self, images: Images, crops: MultiCrop, seed: int) -> None:
        self.images, self.crops, self.seed = images, crops, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Views, list[int]]:
        """The views of an image, and the images tried: all but the last, its own, unreadable."""
        epoch, index = key
        rng = random.Random(f"{self.seed} {epoch} {index}")
        tried: list[int] = []
        while len(tried) < self.TRIES:
            tried.append(index)
            try:
                image = read(self.images, index)
            except Exception:  # decoders raise errors of any type at damaged files
                index = rng.randrange(len(self))  # a neighbour from the sample's own seed
                continue
            return self.crops(image, rng), tried
        names = ", ".join(map(self.images.name, tried[:3]))
        raise DataError(
            f"{self.images.root}: {self.TRIES} images in a row cannot be read ({names}, …); is it "
            "still mounted? --resume goes on from the last checkpoint"
        )

    def spread(self, count: int) -> list[int]:
        """``count`` images from all over the list, or all where it has fewer."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).astype(int).tolist()

    def apart(self, indices: Sequence[int]) -> "Batch":
        """Views of these images, which no epoch draws."""
        return collate([self["apart", index] for index in indices])


def read(images: Images, index: int) -> torch.Tensor:
    """An image, RGB (3,H,W) uint8; an error of whatever type when it cannot be used."""
    image = decode(images.read_bytes(index))
    if min(image.shape[1:]) < 2:
        raise ValueError(f"{image.shape[2]}x{image.shape[1]} pixels have no extent")
    return image


def decode(data: bytes) -> torch.Tensor:
    """RGB (3,H,W) uint8, channels last in memory; an error of whatever type when it cannot be."""
    try:
        opened = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        most = 2 * Image.MAX_IMAGE_PIXELS
        raise ValueError(f"more than {most} pixels: make it smaller, or cut it up") from error
    with opened as image:
        # OpenCV decodes the usual JPEG faster than Pillow, to the same pixels. It does not mind a
        # missing end, nor say so: Pillow does.
        complete = b"\xff\xd9" in data[-64:]
        if image.format == "JPEG" and image.mode in ("RGB", "L") and complete:
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
            if pixels is None:
                raise ValueError("OpenCV cannot decode this JPEG")
        else:
            require_full_colours(image)
            pixels = np.array(to_8_bits(image).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def collate(samples: Sequence[tuple[Views, list[int]]]) -> Batch:
    """Samples → one view-major batch."""
    views, tried = zip(*samples, strict=True)
    global_crops, local_crops, crops, photometry = zip(*views, strict=True)
    return Batch(
        _stack_channels_last(global_crops),
        _stack_channels_last(local_crops),
        torch.stack(crops, dim=1),
        torch.stack(photometry, dim=1),
        [indices[-1] for indices in tried],
        sorted({index for indices in tried for index in indices[:-1]}),
    )


def _stack_channels_last(crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """(V,3,S,S) of each image → (V,B,3,S,S), without changing the order in memory."""
    return torch.stack([each.permute(0, 2, 3, 1) for each in crops], dim=1).permute(0, 1, 4, 2, 3)
