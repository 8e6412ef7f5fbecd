"""What every layout's check has in common."""

import os
from dataclasses import dataclass
from pathlib import Path


class DataError(ValueError):
    """A data set that cannot be used; the message names the file and the way out."""


@dataclass(frozen=True)
class Dataset:
    """A data set whose files were found: annotation files, and how much they list."""

    name: str
    annotations: tuple[Path, ...]
    images: int
    objects: int


def data_root() -> Path:
    """The folder that Detectron2 looks in (it reads the variable when it is imported)."""
    return Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))


def error(name: str, fault: str) -> DataError:
    """``fault`` of the data set ``name``, with what to do about it."""
    return DataError(
        f"{name}: {fault}. Set DETECTRON2_DATASETS to the folder that holds the data sets (now: "
        f"{data_root()}), or make a small one with `python -m benchmarks.scenes DIR`"
    )
