"""A person's DensePose annotation (Güler et al., 2018), and those of the boxes of an image."""

from __future__ import annotations

from collections import UserList
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from transfer.densepose.flip import FlipTable, mirror_parts

POINT_KEYS = ("dp_x", "dp_y", "dp_I", "dp_U", "dp_V")
MASK_KEY = "dp_masks"
MASK_SIDE = 256


def has_points(annotation: dict[str, Any]) -> bool:
    """Whether a person of the JSON file is annotated: all five of ``POINT_KEYS`` are there."""
    return all(key in annotation for key in POINT_KEYS)


def decode_masks(masks: dict[str, Any] | Sequence[Any]) -> np.ndarray:
    """``dp_masks`` as a grid (256, 256) uint8 of coarse parts, 0 to 14; rows are y.

    masks: one entry per part, run lengths or an empty list, later parts above earlier ones; or one
    entry alone, a foreground of value 1.
    """
    entries = [masks] if isinstance(masks, dict) else masks
    segm = np.zeros((MASK_SIDE, MASK_SIDE), dtype=np.uint8)
    for part, entry in enumerate(entries, start=1):
        if entry:
            segm[coco_mask.decode(entry) > 0] = part
    return segm


@dataclass
class Annotation:
    """The points of one person, and the coarse parts if there are masks; relative to the box.

    x, y: (K,) float32, 0 to 256; i: (K,) float32, chart 0 to 24, 0 is background; u, v: (K,)
    float32 in [0, 1]; segm: (256, 256) float32, part 0 to 14, or None.
    """

    x: Tensor
    y: Tensor
    i: Tensor
    u: Tensor
    v: Tensor
    segm: Tensor | None

    @classmethod
    def from_coco(cls, annotation: dict[str, Any]) -> Annotation:
        """From a person of the JSON file that ``has_points``."""
        points = (torch.tensor(annotation[key], dtype=torch.float32) for key in POINT_KEYS)
        masks = annotation.get(MASK_KEY)
        return cls(*points, None if masks is None else torch.tensor(decode_masks(masks)).float())

    def flipped(self, table: FlipTable) -> Annotation:
        """That of the mirrored image; y stays."""
        i, u, v = table.mirror_points(self.i, self.u, self.v)
        segm = None if self.segm is None else mirror_parts(self.segm)
        return Annotation(MASK_SIDE - self.x, self.y, i, u, v, segm)

    def to(self, device: Any) -> Annotation:
        """The same on another device."""
        moved = {n: None if value is None else value.to(device) for n, value in vars(self).items()}
        return Annotation(**moved)

    def __getstate__(self) -> dict[str, np.ndarray | None]:
        """By value from a loader's workers: as tensors, each would keep a file descriptor open."""
        small = vars(self) | {"segm": None if self.segm is None else self.segm.byte()}
        return {n: None if value is None else value.cpu().numpy() for n, value in small.items()}

    def __setstate__(self, arrays: dict[str, np.ndarray | None]) -> None:
        for name, array in arrays.items():
            setattr(self, name, None if array is None else torch.from_numpy(array).float())


class Annotations(UserList):
    """One ``Annotation``, or None, per box: a field of Detectron2's Instances."""

    def __getitem__(self, item: int | slice | Tensor) -> Annotation | Annotations | None:
        """The entry at an int; the entries at a slice, a bool mask or a tensor of indices."""
        if isinstance(item, (int, np.integer, slice)):
            return super().__getitem__(item)
        rows = torch.arange(len(self))[torch.as_tensor(item).cpu()]
        return Annotations([self.data[row] for row in rows.tolist()])

    def to(self, device: Any) -> Annotations:
        """The same on another device."""
        return Annotations([None if entry is None else entry.to(device) for entry in self])
