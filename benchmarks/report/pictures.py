"""What pretraining has learnt, and sample predictions: pictures, shrunk and embedded."""

import base64
import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.report.cells import Cell

MOST = 40  # of one page, each about 40 kB
MAX_SIDE, QUALITY = 640, 70
KINDS = ("matches", "pca")  # of what python -m pretrain.visualize draws


@dataclass(frozen=True)
class Picture:
    """One file of the ``pictures`` folder of an init (then without a cell) or of a cell."""

    init: str
    cell: Cell | None
    file: str
    uri: str
    width: int
    height: int


def embed_inits(folder: Path, inits: Iterable[str]) -> list[Picture]:
    """What python -m pretrain.visualize drew of the inits' trunks, trained beside untrained."""
    return [
        _shrink(init, None, path, 2 * MAX_SIDE)
        for init in inits
        for kind in KINDS
        for path in sorted((folder / init / "pictures").glob(f"*_{kind}.png"))
    ]


def embed(cells: Iterable[Cell]) -> tuple[list[Picture], int]:
    """At most MOST, the first of every cell before any second; how many were left out."""
    found = [
        (number, path, cell)
        for cell in cells
        for number, path in enumerate(sorted((cell.folder / "pictures").glob("*.png")))
    ]
    found.sort(key=lambda entry: (entry[0], entry[2].seed))
    pictures = []
    for _, path, cell in found[:MOST]:
        with contextlib.suppress(OSError):  # not a picture, or half of one
            pictures.append(_shrink(cell.init, cell, path, MAX_SIDE))
    return pictures, len(found) - len(pictures)


def _shrink(init: str, cell: Cell | None, path: Path, side: int) -> Picture:
    with Image.open(path) as image:
        image = image.convert("RGB")
    image.thumbnail((side, 2 * side))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    uri = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return Picture(init, cell, path.name, uri, *image.size)
