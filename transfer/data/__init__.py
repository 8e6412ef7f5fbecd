"""What a data set must hold before anything is built, and the fingerprint of what it holds.

``CHECKS`` has one entry per layout, by the data set's ``evaluator_type`` in Detectron2's metadata.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.runtime.config import nearest
from pretrain.runtime.files import sha256_of
from transfer.data import coco
from transfer.data.layout import DataError, Dataset, data_root

CHECKS: dict[str, Callable[[str], Dataset]] = {"coco": coco.check}

# Published image counts: https://cocodataset.org/#download.
OFFICIAL_IMAGES = {"coco_2017_train": 118287, "coco_2017_val": 5000}


def check(name: str) -> Dataset:
    """The data set of that registered name, after a look at its files.

    Raises DataError naming the file at fault, DETECTRON2_DATASETS and the way out.
    """
    if name not in DatasetCatalog:
        known = DatasetCatalog.list()
        raise DataError(f"{name}: not a registered data set{nearest(name, known)}")
    layout = MetadataCatalog.get(name).get("evaluator_type")
    if layout not in CHECKS:
        raise DataError(
            f"{name}: evaluator_type {layout} cannot be checked; known: {', '.join(CHECKS)}"
        )
    return CHECKS[layout](name)


def describe(dataset: Dataset) -> str:
    """One line: counts, place, and the published count where it differs."""
    official = OFFICIAL_IMAGES.get(dataset.name, dataset.images)
    note = "" if official == dataset.images else f" (the official set has {official})"
    return (
        f"{dataset.name}: {dataset.images} images{note}, {dataset.objects} objects, "
        f"{', '.join(map(str, dataset.annotations))}"
    )


def fingerprint(train: Sequence[Dataset], test: Sequence[Dataset]) -> dict[str, Any]:
    """The ``data`` entry of metrics.json: tables never mix two of them."""
    used = [*train, *test]
    if (data_root() / "scenes.json").is_file():
        name = "scenes"
    elif all(OFFICIAL_IMAGES.get(dataset.name) == dataset.images for dataset in used):
        name = "official"
    else:
        name = "other"
    return {
        "name": name,
        "train_images": sum(dataset.images for dataset in train),
        "test_images": sum(dataset.images for dataset in test),
        "sha256": _sha256([file for dataset in used for file in dataset.annotations]),
    }


def _sha256(files: Sequence[Path]) -> str:
    """One hash over the annotation files, the same wherever and in whatever order they lie."""
    lines = sorted(f"{os.path.basename(file)} {sha256_of(file)}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
