"""Sample predictions, shrunk and embedded."""

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


@dataclass(frozen=True)
class Picture:
    """One file of a cell's ``pictures`` folder."""

    cell: Cell
    file: str
    uri: str
    width: int
    height: int


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
            pictures.append(_shrink(cell, path))
    return pictures, len(found) - len(pictures)


def _shrink(cell: Cell, path: Path) -> Picture:
    with Image.open(path) as image:
        image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, 2 * MAX_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    uri = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return Picture(cell, path.name, uri, *image.size)
