"""What every layout's check has in common."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

SAMPLED_IMAGES = 100
EXIF_ORIENTATION = 0x0112
EXIF_TRANSPOSED = (5, 6, 7, 8)


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class Dataset:
    """A data set whose files were looked at.

    place: the file or folder to name it by; annotations: the files that make its fingerprint;
    images, objects: how many; classes: their names in the order of the network's classes;
    masks: whether every object has one, bitmasks: whether one is not polygons, crowds apart;
    keypoints: their names, or none; keypoints_fault: what keeps a network from learning them;
    densepose: how many persons have it.
    """

    name: str
    place: Path
    annotations: tuple[Path, ...]
    images: int
    objects: int
    classes: tuple[str, ...]
    masks: bool = False
    bitmasks: bool = False
    keypoints: tuple[str, ...] = ()
    keypoints_fault: str = ""
    densepose: int = 0


def data_root() -> Path:
    """The folder that Detectron2 looks in (it reads the variable when it is imported)."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def error(name: str, fault: str) -> DataError:
    """``fault`` of the data set ``name``, with what to do about it."""
    return DataError(
        f"{name}: {fault}. DETECTRON2_DATASETS names the folder that holds the data sets (now: "
        f"{data_root()}); DATA.md says what lies there, and `python -m benchmarks.scenes DIR` "
        "makes a small one"
    )


def require_file(name: str, file: Path) -> None:
    """DataError where ``file`` does not exist."""
    if not file.is_file():
        raise error(name, f"{file} does not exist")


def require_files(name: str, files: Iterable[Path]) -> None:
    """DataError where one of ``files`` does not exist; every folder is listed once."""
    listed: dict[Path, set[str]] = {}
    absent = []
    for file in files:
        folder = file.parent
        if folder not in listed:
            listed[folder] = set(list_folder(name, folder))
        if file.name not in listed[folder]:
            absent.append(file)
    if absent:
        more = f" (nor do {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise error(name, f"{absent[0]} does not exist{more}")


def list_folder(name: str, folder: Path) -> list[str]:
    """The sorted names in ``folder``; DataError where there is no such folder."""
    if folder.is_file():
        raise error(name, f"{folder} is a file where only folders may lie")
    if not folder.is_dir():
        raise error(name, f"folder {folder} does not exist")
    return sorted(os.listdir(folder))


def sample(items: Sequence[Any]) -> Sequence[Any]:
    """At most 100 of ``items``, evenly spaced."""
    return items[:: max(1, -(-len(items) // SAMPLED_IMAGES))]


def check_size(name: str, image: Path, size: tuple[int, int], record: Path) -> None:
    """DataError where the header of ``image`` has another (width, height) than ``record`` says."""
    try:
        with Image.open(image) as opened:
            found = opened.size
            # Detectron2 turns a photograph upright before it compares. (Of a PNG file, asking
            # would decode the whole image.)
            exif = opened.getexif() if opened.format == "JPEG" else {}
            if exif.get(EXIF_ORIENTATION) in EXIF_TRANSPOSED:
                found = found[::-1]
    except (OSError, UnidentifiedImageError) as fault:
        raise error(name, f"{image} is not a readable image ({fault})") from fault
    if found != tuple(size):
        raise error(
            name, f"{image} has {found[0]}x{found[1]} pixels, {record} says {size[0]}x{size[1]}"
        )


def first_twice(values: Iterable[Any]) -> Any | None:
    """The first of ``values`` that comes twice, or None."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
