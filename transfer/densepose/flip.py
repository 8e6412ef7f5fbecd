"""DensePose annotations of a mirrored image.

Charts are not mirror images of each other in U, V: a point's new U, V come from a published table,
which was made from the body's mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.runtime.files import DataError
from transfer.densepose.config import CHARTS
from transfer.densepose.surface import PUBLISHED, read_matlab

TABLE = "UV_symmetry_transforms.mat"
WAY_OUT = (
    "The points of a mirrored image get their U, V from this table, which is at "
    f"{PUBLISHED}/{TABLE} (DATA.md has its terms). "
    "To train without mirroring, add: INPUT.RANDOM_FLIP none"
)
VARIABLES = ("U_transforms", "V_transforms")
CELLS = 256  # a table's, along U and along V

# The torso's two charts stay, the others change places in pairs: 3 and 4, 5 and 6, to 23 and 24.
MIRRORED_CHARTS = torch.tensor([0, 1, 2, *(n + 1 if n % 2 else n - 1 for n in range(3, 25))])
# Torso and head stay: 2 and 3, 4 and 5, to 12 and 13.
MIRRORED_PARTS = torch.tensor([0, 1, *(n - 1 if n % 2 else n + 1 for n in range(2, 14)), 14])


@dataclass(frozen=True)
class FlipTable:
    """Where the points of each chart come to lie on the mirrored one.

    u, v: (24, 256, 256) float32 in [0, 1], by chart - 1, V and U.
    """

    u: Tensor
    v: Tensor

    @classmethod
    def read(cls, file: str | Path) -> FlipTable:
        """From the published MATLAB file; DataError where it does not exist or does not fit."""
        content = read_matlab(file, VARIABLES, WAY_OUT)
        return cls(*(_table(file, name, content.get(name)) for name in VARIABLES))

    def mirror_points(self, i: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chart, U and V in the mirrored image, (K,) float32 each; background stays as it is."""
        # The old chart's table; rows are V.
        chart, row, column = i.long(), (v * 255).long(), (u * 255).long()
        mirrored = (
            torch.where(chart > 0, table[chart - 1, row, column], old)
            for table, old in ((self.u, u), (self.v, v))
        )
        return MIRRORED_CHARTS[chart].to(i.dtype), *mirrored


def mirror_parts(segm: Tensor) -> Tensor:
    """Coarse parts (256, 256), 0 to 14, of the mirrored image; the type stays."""
    return MIRRORED_PARTS.to(segm.dtype)[segm.long()].flip(1)


def _table(file: str | Path, name: str, cells: Any) -> Tensor:
    """The cells of one variable as (24, 256, 256) float32."""
    fits = np.shape(cells) == (1, CHARTS) and all(
        np.shape(cell) == (CELLS, CELLS)
        and cell.dtype.kind in "fiu"
        and np.abs(np.float32(cell) - 0.5).max() <= 0.5
        for cell in cells[0]
    )
    if not fits:
        raise DataError(
            f"{file}: {name} is not {CHARTS} cells of {CELLS}x{CELLS} numbers from 0 to 1 each. "
            f"{WAY_OUT}"
        )
    return torch.from_numpy(np.stack(cells[0]).astype(np.float32))
