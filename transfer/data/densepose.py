"""DensePose-COCO (Güler et al., 2018): one JSON file a split, images of COCO 2014.

Which records are read and used is as in facebookresearch/detectron2@02b5c4e2, projects/DensePose
(data/datasets/coco.py, data/build.py), the rules being said below. Importing this registers the
four data sets with Detectron2.
"""

import logging
import reprlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from transfer.data import coco, reading
from transfer.data.layout import DataError, Dataset, absent_keys, data_root
from transfer.data.masks import decode_runs
from transfer.data.reading import Labels, where
from transfer.densepose.annotations import MASK_KEY, MASK_SIDE, POINT_KEYS, has_points
from transfer.densepose.flip import TABLE

logger = logging.getLogger(__name__)

SPLITS = {  # data set: its file below coco/annotations, and the folder of its images below coco
    "densepose_coco_2014_train": ("densepose_train2014.json", "train2014"),
    "densepose_coco_2014_valminusminival": ("densepose_valminusminival2014.json", "val2014"),
    "densepose_coco_2014_minival": ("densepose_minival2014.json", "val2014"),
    "densepose_coco_2014_minival_100": ("densepose_minival2014_100.json", "val2014"),
}
PERSON = 1  # the category's id in the files; contiguous 0
PARTS = 14

# What a point's numbers may be; x and y are in the person's box, scaled to 256 by 256.
LIMITS = {
    "dp_x": (-1, MASK_SIDE + 1, "a number from 0 to 256"),
    "dp_y": (-1, MASK_SIDE + 1, "a number from 0 to 256"),
    "dp_I": (0, 24, "a whole number from 0 to 24"),
    "dp_U": (0, 1, "a number from 0 to 1"),
    "dp_V": (0, 1, "a number from 0 to 1"),
}


def register(root: Path) -> None:
    """Make the four data sets known to Detectron2, their files below ``root``.

    They take the place of upstream's, where its package ``densepose`` was imported before.
    """
    for name, (file, folder) in SPLITS.items():
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, partial(load, name))
        MetadataCatalog.get(name).set(
            json_file=str(root / "coco" / "annotations" / file),
            image_root=str(root / "coco" / folder),
            thing_classes=["person"],
            thing_dataset_id_to_contiguous_id={PERSON: 0},
            densepose_transform_src=str(root / "densepose" / TABLE),
            densepose_surface=str(root / "densepose"),
            evaluator_type="densepose",
        )


def read(name: str) -> Labels:
    """The labels of the data set ``name``, all of the one class. Raises DataError."""
    file = Path(MetadataCatalog.get(name).json_file)

    def classes_of(categories: list[dict[str, Any]]) -> dict[int, str]:
        names = {category["id"]: category["name"] for category in categories}
        if names.get(PERSON) != "person":
            found = names.get(PERSON, "missing")
            raise DataError(f"{file}: category {PERSON} is {found}, not person")
        return {PERSON: "person"}

    return reading.read(file, coco.KEYS, classes_of)


def load(name: str) -> list[dict[str, Any]]:
    """The records of a registered data set, ordered by image id."""
    labels = read(name)
    copied = ("iscrowd", *POINT_KEYS, MASK_KEY)
    return reading.records(labels, coco.paths_of(name, labels), copied)


def keep_for_training(records: list[dict[str, Any]], cfg: CfgNode) -> list[dict[str, Any]]:
    """The images with somebody annotated, crowds included; with MASK_ON also those with a mask."""

    def teaches(person: dict[str, Any]) -> bool:
        return has_points(person) or (cfg.MODEL.MASK_ON and "segmentation" in person)

    kept = [record for record in records if any(map(teaches, record["annotations"]))]
    dropped = len(records) - len(kept)
    logger.info("%d images to train on; left out: %d that teach nothing", len(kept), dropped)
    return kept


def keep_for_testing(records: list[dict[str, Any]], cfg: CfgNode) -> list[dict[str, Any]]:
    """The images with somebody in them, annotated or not; all without FILTER_EMPTY_ANNOTATIONS."""
    every = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    kept = [record for record in records if every or record["annotations"]]
    dropped = len(records) - len(kept)
    logger.info("%d images to test on; left out: %d without anybody", len(kept), dropped)
    return kept


def check(name: str) -> Dataset:
    """The DensePose data set ``name``, after a look at all of its JSON file and at its images.

    All points and run lengths are looked at. Every image must exist; the sizes of 100 evenly spaced
    ones are read and compared with their records. Raises DataError.
    """
    labels = read(name)
    dataset = coco.check_images(name, labels, coco.paths_of(name, labels))
    annotations = labels.content["annotations"]
    for number, annotation in enumerate(annotations):
        person = where(labels.file, number, annotation)
        _check_points(person, annotation)
        if MASK_KEY in annotation:
            _check_masks(person, annotation[MASK_KEY])
    return replace(dataset, densepose=sum(map(has_points, annotations)))


def _check_points(person: str, annotation: dict[str, Any]) -> None:
    """DataError for points that are incomplete or out of ``LIMITS``."""
    values = [annotation[key] for key in POINT_KEYS if key in annotation]
    if not values:
        return
    if absent := absent_keys(annotation, POINT_KEYS):
        raise DataError(f"{person} has points without {absent}")
    if not all(isinstance(one, list) for one in values) or len(set(map(len, values))) > 1:
        raise DataError(f"{person}: {', '.join(POINT_KEYS)} are not five lists of one length")
    for key, (low, high, expected) in LIMITS.items():
        for place, value in enumerate(annotation[key]):
            fits = type(value) in (int, float) and low <= value <= high  # NaN does not
            if not fits or (key == "dp_I" and value % 1):
                found = reprlib.repr(value)
                raise DataError(f"{person}: {key}[{place}] is {found}, not {expected}")


def _check_masks(person: str, masks: Any) -> None:
    """DataError for ``dp_masks`` that are no run lengths of 256 x 256 pixels."""
    entries = [masks] if isinstance(masks, dict) else masks
    if not isinstance(entries, list) or len(entries) != (1 if isinstance(masks, dict) else PARTS):
        raise DataError(f"{person}: dp_masks is neither {PARTS} entries nor one mapping")
    for entry in entries:
        if entry != [] and not _is_mask(entry):
            found = reprlib.repr(entry)
            raise DataError(f"{person}: in dp_masks {found} is not run lengths of a 256 x 256 mask")


def _is_mask(entry: Any) -> bool:
    code = entry.get("counts") if isinstance(entry, dict) else None
    if not isinstance(code, str) or entry.get("size") != [MASK_SIDE, MASK_SIDE]:
        return False
    runs = decode_runs(code)
    return min(runs) >= 0 and sum(runs) == MASK_SIDE**2


register(data_root())
