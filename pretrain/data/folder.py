"""A folder of images as multi-crop samples; unreadable images are replaced, and reported."""

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from pretrain.augment import MultiCrop

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class DataError(ValueError):
    """Images that cannot be used; the message names the folder or file and the way out."""


class Batch(NamedTuple):
    """View-major: V local views of B images."""

    global_crops: torch.Tensor  # (2,B,3,S,S) uint8
    local_crops: torch.Tensor  # (V,B,3,s,s) uint8
    boxes: torch.Tensor  # (2+V,B,4) float32
    bad: list[int]  # images that could not be read and were replaced


def list_images(root: str | Path) -> list[str]:
    """Paths relative to ``root`` of all images below it, links followed, sorted."""
    root = Path(root)
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; set DATA.ROOT to a folder of images, or write a small one: "
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
        self.images = list_images(root)
        self.crops = crops
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(
        self, key: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int]]:
        """Global (2,3,S,S) and local (V,3,s,s) crops, boxes (2+V,4), unreadable images met."""
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
            return *self.crops(image, rng), bad
        names = ", ".join(self.images[i] for i in bad[:3])
        raise DataError(f"{self.root}: {self.TRIES} images in a row cannot be read ({names}, …)")

    def read(self, index: int) -> Image.Image:
        """The image in RGB; an error of whatever type when it cannot be decoded or used."""
        path = self.root / self.images[index]
        with Image.open(path) as image:
            if min(image.size) < 2:
                raise DataError(f"{path}: {image.size[0]}x{image.size[1]} pixels have no extent")
            return image.convert("RGB")


def collate(samples: Sequence[tuple]) -> Batch:
    """Samples → one view-major batch."""
    global_crops, local_crops, boxes, bad = zip(*samples, strict=True)
    return Batch(
        torch.stack(global_crops, dim=1),
        torch.stack(local_crops, dim=1),
        torch.stack(boxes, dim=1),
        sorted({index for indices in bad for index in indices}),
    )
