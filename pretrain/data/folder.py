"""A folder of images as multi-crop samples; unreadable images are replaced, and reported."""

import hashlib
import io
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from pretrain.augment import MultiCrop, Views

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class DataError(ValueError):
    """Images that cannot be used; the message names the folder or file and the way out."""


class Batch(NamedTuple):
    """View-major: V local views of B images. Crops have their channels last in memory."""

    global_crops: torch.Tensor  # (2,B,3,S,S) uint8
    local_crops: torch.Tensor  # (V,B,3,s,s) uint8
    boxes: torch.Tensor  # (2+V,B,4) float32
    photometry: torch.Tensor  # (2+V,B,8) float32
    bad: list[int]  # images that could not be read and were replaced


def list_images(root: str | Path) -> list[str]:
    """Paths relative to ``root`` of all images below it, links followed, sorted."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; name a folder of images (DATA.ROOT), or write a small one: "
            "python -m benchmarks.scenes OUT"
        )
    images = [
        Path(folder, name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(EXTENSIONS)
    ]
    if not images:
        raise DataError(f"{root}: no image below it (looked for {', '.join(EXTENSIONS)})")
    return sorted(images)


class MultiCropFolder(torch.utils.data.Dataset):
    """Sample (epoch, index) → views of one image, drawn from (seed, epoch, index) alone."""

    TRIES = 20

    def __init__(self, root: str | Path, crops: MultiCrop, seed: int) -> None:
        self.root = Path(root)
        # One block, and not a million objects: reading their counts would copy them to each worker
        self._names = np.array([os.fsencode(name) for name in list_images(root)])
        self.crops = crops
        self.seed = seed

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Path of an image below ``root``."""
        return os.fsdecode(self._names[index])

    def sha256(self) -> str:
        """Of all names, in order."""
        return hashlib.sha256(b"\n".join(self._names.tolist())).hexdigest()

    def __getitem__(self, key: tuple[int, int]) -> tuple[Views, list[int]]:
        """The views, and the unreadable images met on the way to them."""
        epoch, index = key
        rng = random.Random(f"{self.seed} {epoch} {index}")
        bad: list[int] = []
        while len(bad) < self.TRIES:
            try:
                image = self.read(index)
            except Exception:  # decoders raise errors of any type at damaged files
                bad.append(index)
                index = rng.randrange(len(self))  # a neighbour from the sample's own seed
                continue
            return self.crops(image, rng), bad
        names = ", ".join(map(self.name, bad[:3]))
        raise DataError(f"{self.root}: {self.TRIES} images in a row cannot be read ({names}, …)")

    def spread(self, count: int) -> list[int]:
        """``count`` images from all over the folder, or all where it has fewer."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).astype(int).tolist()

    def apart(self, indices: Sequence[int]) -> "Batch":
        """Views of these images, which no epoch draws."""
        return collate([self["apart", index] for index in indices])

    def read(self, index: int) -> torch.Tensor:
        """The image, RGB (3,H,W) uint8; an error of whatever type when it cannot be used."""
        path = self.root / self.name(index)
        image = decode(path.read_bytes())
        if min(image.shape[1:]) < 2:
            raise DataError(f"{path}: {image.shape[2]}x{image.shape[1]} pixels have no extent")
        return image


def decode(data: bytes) -> torch.Tensor:
    """RGB (3,H,W) uint8, channels last in memory; an error of whatever type when it cannot be."""
    with Image.open(io.BytesIO(data)) as image:
        # OpenCV decodes the usual JPEG faster than Pillow, to the same pixels. It does not mind a
        # missing end, nor say so: Pillow does.
        complete = b"\xff\xd9" in data[-64:]
        if image.format == "JPEG" and image.mode in ("RGB", "L") and complete:
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
        else:
            pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def collate(samples: Sequence[tuple[Views, list[int]]]) -> Batch:
    """Samples → one view-major batch."""
    views, bad = zip(*samples, strict=True)
    global_crops, local_crops, boxes, photometry = zip(*views, strict=True)
    return Batch(
        _stack_channels_last(global_crops),
        _stack_channels_last(local_crops),
        torch.stack(boxes, dim=1),
        torch.stack(photometry, dim=1),
        sorted({index for indices in bad for index in indices}),
    )


def _stack_channels_last(crops: Sequence[torch.Tensor]) -> torch.Tensor:
    """(V,3,S,S) of each image → (V,B,3,S,S), without changing the order in memory."""
    return torch.stack([each.permute(0, 2, 3, 1) for each in crops], dim=1).permute(0, 1, 4, 2, 3)
