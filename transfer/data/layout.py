"""What the checks of all layouts share; ``transfer.data.check`` adds whose data set is at fault."""

import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pretrain.runtime.files import DataError, hint_at

SAMPLED_IMAGES = 100
EXIF_ORIENTATION = 0x0112
EXIF_TRANSPOSED = (5, 6, 7, 8)
LONGEST_NAME = 255  # bytes, of a file


class MissingError(DataError):
    """A file or folder that does not exist."""


@dataclass(frozen=True)
class Dataset:
    """A data set whose files were looked at.

    place: the file or folder to name it by; annotations: the files that make its fingerprint;
    images, objects: how many; classes: their names in the order of the network's classes;
    masks: whether every object has one, mask_fault: which one has none, if others have, bitmasks:
    whether one is not polygons; keypoints: their names, or none, keypoints_fault: what keeps a
    network from learning them; densepose: how many persons have it; notes: what one should know.
    """

    name: str
    place: Path
    annotations: tuple[Path, ...]
    images: int
    objects: int
    classes: tuple[str, ...]
    masks: bool = False
    mask_fault: str = ""
    bitmasks: bool = False
    keypoints: tuple[str, ...] = ()
    keypoints_fault: str = ""
    densepose: int = 0
    notes: tuple[str, ...] = ()


def data_root() -> Path:
    """The folder that Detectron2 looks in (it reads the variable when it is imported)."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def load_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; DataError where it holds anything else or does not exist."""
    if not file.is_file():
        raise MissingError(f"{file} does not exist")
    try:
        content = json.loads(file.read_bytes())
    except UnicodeDecodeError as fault:
        raise DataError(f"{file} is not in UTF-8 ({fault}); save it so") from fault
    except (ValueError, RecursionError) as fault:
        raise DataError(f"{file} is not JSON ({fault}); is it whole?") from fault
    if not isinstance(content, dict):
        raise DataError(f"{file} holds a {type(content).__name__}, not a mapping")
    return content


def absent_keys(entry: Any, keys: Iterable[str]) -> str:
    """Those of ``keys`` that a JSON file's entry lacks, for a message; empty if it has all."""
    return ", ".join(key for key in keys if not isinstance(entry, dict) or key not in entry)


def require_files(files: Iterable[Path]) -> None:
    """MissingError where one of ``files`` does not exist; every folder is listed once."""
    files = list(files)
    for file in files:
        if len(os.fsencode(file.name)) > LONGEST_NAME:
            raise DataError(f"{reprlib.repr(str(file))} is no file's name: images must be files")
    folders = {file.parent for file in files}
    listed = {f: set(os.listdir(f)) if f.is_dir() else set() for f in folders}
    absent = [file for file in files if file.name not in listed[file.parent]]
    if absent:
        first = absent[0]
        more = f" (nor do {len(absent) - 1} more)" if len(absent) > 1 else ""
        what = first if first.parent.is_dir() else f"{first}: folder {first.parent}"
        hint = hint_at(first, listed[first.parent])
        raise MissingError(f"{what} does not exist{more}{hint}")


def list_folder(folder: Path) -> list[str]:
    """The sorted names in ``folder``; DataError where there is no such folder."""
    if folder.is_file():
        raise DataError(f"{folder} is a file where only folders may lie")
    if not folder.is_dir():
        raise MissingError(f"folder {folder} does not exist")
    return sorted(os.listdir(folder))


def sample(items: Sequence[Any]) -> Sequence[Any]:
    """At most 100 of ``items``, evenly spaced."""
    return items[:: max(1, -(-len(items) // SAMPLED_IMAGES))]


def check_size(image: Path, size: tuple[int, int], record: Path) -> None:
    """DataError where the header of ``image`` has another (width, height) than ``record`` says."""
    try:
        with Image.open(image) as opened:
            found = opened.size
            # Detectron2 turns a photograph upright before it compares. (A PNG file without would be
            # decoded for it.)
            known = opened.format != "PNG" or "exif" in opened.info
            exif = opened.getexif() if known else {}
            if exif.get(EXIF_ORIENTATION) in EXIF_TRANSPOSED:
                found = found[::-1]
    except (OSError, Image.DecompressionBombError) as fault:
        raise DataError(f"{image} is not a readable image ({fault})") from fault
    if found != tuple(size):
        found, said = (f"{width}x{height}" for width, height in (found, size))
        raise DataError(f"{image} has {found} pixels, {record} says {said}")


def first_twice(values: Iterable[Any]) -> Any | None:
    """The first of ``values`` that comes twice, or None."""
    return next((value for value, count in Counter(values).items() if count > 1), None)
