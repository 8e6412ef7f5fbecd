"""Sample predictions, shrunk and embedded until the page has had its share of them."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.report.cells import Cell

BUDGET = 1_500_000  # characters of the page
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
    """The pictures that fit, the first of every cell before any second; how many were left out."""
    found = [
        (cell.seed, number, path, cell)
        for cell in cells
        for number, path in enumerate(sorted((cell.folder / "pictures").glob("*.png")))
    ]
    pictures, left = [], BUDGET
    for _, _, path, cell in sorted(found, key=lambda entry: entry[:2]):
        try:
            picture = _shrink(cell, path)
        except OSError:
            continue  # not a picture, or half of one
        left -= len(picture.uri)
        if left < 0:
            break
        pictures.append(picture)
    return pictures, len(found) - len(pictures)


def _shrink(cell: Cell, path: Path) -> Picture:
    with Image.open(path) as image:
        image = image.convert("RGB")
    image.thumbnail((MAX_SIDE, 2 * MAX_SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY)
    uri = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return Picture(cell, path.name, uri, *image.size)
