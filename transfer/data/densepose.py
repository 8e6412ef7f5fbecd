"""COCO DensePose's layout: one JSON file a split, images of COCO 2014 (spec/densepose.md, 2, 3, 5).

Importing this registers its four data sets with Detectron2.
"""

import json
import logging
import re
import reprlib
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from transfer.data.coco import (
    ANNOTATION_KEYS,
    CATEGORY_KEYS,
    IMAGE_KEYS,
    check_annotations,
    check_images,
    read_json,
)
from transfer.data.layout import DataError, Dataset, data_root, error, first_twice
from transfer.densepose.annotations import MASK_KEY, MASK_SIDE, POINT_KEYS, has_points
from transfer.densepose.flip import TABLE
from transfer.densepose.mapper import check_augmentations, read_flip_table

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

# COCO's compressed run lengths: numbers of one to four characters, all but the last with bit 5 set.
# (pycocotools reads beyond the end of a string that is cut within a number.)
RUN_LENGTHS = re.compile("(?:[P-o]{0,3}[0-O])+")
CODES_AT_ONCE = 4096


def register(root: Path) -> None:
    """Make the four data sets known to Detectron2, their files below ``root``."""
    for name, (file, folder) in SPLITS.items():
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


def load(name: str) -> list[dict[str, Any]]:
    """The records of a registered data set, ordered by image id.

    Raises DataError for an annotation id that comes twice, except in the minival files: the
    published ones have some.
    """
    metadata = MetadataCatalog.get(name)
    file, folder = Path(metadata.json_file), Path(metadata.image_root)
    content = json.loads(file.read_bytes())
    twice = first_twice(annotation["id"] for annotation in content["annotations"])
    if twice is not None and not _may_repeat(file):
        raise error(name, f"{file}: two annotations have the id {twice}")
    people = defaultdict(list)
    for annotation in content["annotations"]:
        person = _person(annotation, metadata.thing_dataset_id_to_contiguous_id)
        people[annotation["image_id"]].append(person)
    return [
        {
            "file_name": str(folder / image["file_name"]),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": people[image["id"]],
        }
        for image in sorted(content["images"], key=lambda image: image["id"])
    ]


def _person(annotation: dict[str, Any], classes: dict[int, int]) -> dict[str, Any]:
    copied = ("iscrowd", *POINT_KEYS, MASK_KEY)
    person = {key: annotation[key] for key in copied if key in annotation} | {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
    }
    segmentation = _segmentation(annotation)
    return person | {"segmentation": segmentation} if segmentation else person


def _segmentation(annotation: dict[str, Any]) -> dict[str, Any] | list[list[float]]:
    """Run lengths, or the polygons that have an area; empty if there are none."""
    found = annotation.get("segmentation") or []
    if isinstance(found, dict):
        return found
    return [polygon for polygon in found if len(polygon) % 2 == 0 and len(polygon) >= 6]


def keep_for_training(records: list[dict[str, Any]], cfg: CfgNode) -> list[dict[str, Any]]:
    """The images with somebody annotated, crowds included; with MASK_ON also those with a mask.

    Raises DataError where none is left.
    """

    def teaches(person: dict[str, Any]) -> bool:
        return has_points(person) or (cfg.MODEL.MASK_ON and "segmentation" in person)

    kept = [record for record in records if any(map(teaches, record["annotations"]))]
    dropped = len(records) - len(kept)
    logger.info("%d images to train on; left out: %d that teach nothing", len(kept), dropped)
    if not kept:
        names = ", ".join(cfg.DATASETS.TRAIN)
        raise DataError(
            f"{names}: nobody in {len(records)} images has {', '.join(POINT_KEYS)}; "
            f"MODEL.DENSEPOSE_ON needs data sets such as {next(iter(SPLITS))} in DATASETS.TRAIN"
        )
    return kept


def keep_for_testing(records: list[dict[str, Any]], cfg: CfgNode) -> list[dict[str, Any]]:
    """The images with somebody in them, annotated or not; all without FILTER_EMPTY_ANNOTATIONS."""
    kept = records
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        kept = [record for record in records if record["annotations"]]
    dropped = len(records) - len(kept)
    logger.info("%d images to test on; left out: %d without anybody", len(kept), dropped)
    return kept


def check_flip(cfg: CfgNode) -> None:
    """ConfigError or DataError where DensePose's training could not augment its images."""
    if cfg.MODEL.DENSEPOSE_ON:
        check_augmentations(cfg)
        read_flip_table(cfg)


def check(name: str) -> Dataset:
    """The DensePose data set ``name``, after a look at all of its JSON file and at its images.

    All points and run lengths are looked at. Every image must exist; the sizes of 100 evenly spaced
    ones are read and compared with their records. Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    file, folder = Path(metadata.json_file), Path(metadata.image_root)
    content = _read(name, file)
    annotations = content["annotations"]
    check_annotations(name, file, content, (PERSON,))
    paths = [folder / image["file_name"] for image in content["images"]]
    check_images(name, file, content["images"], paths)
    _check_points(name, file, annotations)
    _check_masks(name, file, annotations)
    masks = [_segmentation(a) for a in annotations if not a.get("iscrowd")]
    return Dataset(
        name=name,
        place=file,
        annotations=(file,),
        images=len(content["images"]),
        objects=len(annotations),
        classes=tuple(metadata.thing_classes),
        masks=all(masks),
        bitmasks=any(isinstance(mask, dict) for mask in masks),
        densepose=sum(map(has_points, annotations)),
    )


def _read(name: str, file: Path) -> dict[str, Any]:
    """The content of the JSON file, whose one category is person."""
    twice_allowed = ("annotations",) if _may_repeat(file) else ()
    content = read_json(
        name, file, IMAGE_KEYS, ANNOTATION_KEYS, CATEGORY_KEYS, twice_allowed=twice_allowed
    )
    category = {entry["id"]: entry["name"] for entry in content["categories"]}.get(PERSON)
    if category != "person":
        raise error(name, f"{file}: category {PERSON} is {category or 'missing'}, not person")
    return content


def _may_repeat(file: Path) -> bool:
    """Whether two annotations may have one id: in the published minival files some have."""
    return "minival" in str(file)


def _check_points(name: str, file: Path, annotations: list[dict[str, Any]]) -> None:
    """DataError for points that are incomplete or out of ``LIMITS``."""
    people = []
    for annotation in annotations:
        absent = [key for key in POINT_KEYS if key not in annotation]
        if len(absent) == len(POINT_KEYS):
            continue
        where = f"{file}: annotation {annotation['id']}"
        if absent:
            present = ", ".join(key for key in POINT_KEYS if key in annotation)
            raise error(name, f"{where} has {present}, but no {', '.join(absent)}")
        for key in POINT_KEYS:
            if not isinstance(annotation[key], list):
                found = reprlib.repr(annotation[key])
                raise error(name, f"{where}: {key} is {found}, not a list with a number a point")
        lengths = [len(annotation[key]) for key in POINT_KEYS]
        if min(lengths) != max(lengths):
            found = ", ".join(f"{n} {key}" for n, key in zip(lengths, POINT_KEYS, strict=True))
            raise error(name, f"{where} has {found}; a point has one of each")
        people.append(annotation)
    ends = np.cumsum([len(person["dp_x"]) for person in people])
    for key, (low, high, expected) in LIMITS.items():
        values = list(chain.from_iterable(person[key] for person in people))
        if set(map(type, values)) <= {int, float}:
            numbers = np.array(values, dtype=float)
            wrong = ~((numbers >= low) & (numbers <= high))  # NaN is wrong, too
            if key == "dp_I":
                wrong |= numbers != numbers.round()
        else:
            wrong = np.array([type(value) not in (int, float) for value in values])
        if wrong.any():
            number = int(wrong.argmax())
            person = people[np.searchsorted(ends, number, side="right")]
            place = number - int(ends[ends <= number].max(initial=0))
            raise error(
                name,
                f"{file}: annotation {person['id']}: {key}[{place}] is "
                f"{reprlib.repr(values[number])}, not {expected}",
            )


def _check_masks(name: str, file: Path, annotations: list[dict[str, Any]]) -> None:
    """DataError for ``dp_masks`` that are no run lengths of 256 x 256 pixels."""
    codes, places = [], []
    for annotation in annotations:
        if MASK_KEY not in annotation:
            continue
        where, masks = f"{file}: annotation {annotation['id']}", annotation[MASK_KEY]
        if not isinstance(masks, dict) and not (isinstance(masks, list) and len(masks) == PARTS):
            found = f"{len(masks)} entries" if isinstance(masks, list) else reprlib.repr(masks)
            raise error(name, f"{where}: dp_masks is {found}, not {PARTS} or one mapping")
        for part, entry in enumerate([masks] if isinstance(masks, dict) else masks):
            if entry == []:
                continue
            place = f"{where}: dp_masks" + ("" if isinstance(masks, dict) else f"[{part}]")
            if not isinstance(entry, dict):
                found = reprlib.repr(entry)
                raise error(name, f"{place} is {found}, not a mapping of run lengths, nor []")
            if entry.get("size") != [MASK_SIDE, MASK_SIDE]:
                found = reprlib.repr(entry.get("size"))
                raise error(name, f"{place} has the size {found}, not [{MASK_SIDE}, {MASK_SIDE}]")
            code = entry.get("counts")
            if not isinstance(code, str) or not RUN_LENGTHS.fullmatch(code):
                raise error(name, f"{place} has counts {reprlib.repr(code)}, not run lengths")
            codes.append(code.encode())
            places.append(place)
    for start in range(0, len(codes), CODES_AT_ONCE):
        pixels = count_pixels(codes[start : start + CODES_AT_ONCE])
        wrong = np.flatnonzero(pixels != MASK_SIDE**2)
        if len(wrong):
            place, found = places[start + wrong[0]], pixels[wrong[0]]
            fault = "a negative run" if found < 0 else f"runs of {found} pixels"
            raise error(name, f"{place} has {fault}, not of {MASK_SIDE} x {MASK_SIDE}")


def count_pixels(codes: Sequence[bytes]) -> np.ndarray:
    """How many pixels COCO's compressed run lengths (N) cover, (N,) int64; -1 for a negative run.

    codes: strings of ``RUN_LENGTHS``. A character less 48 holds five bits, the lowest first; the
    number's last has the sign. From the fourth on, numbers are differences to the run before the
    last: those of even and of odd places, the first one apart, are two chains of sums.
    """
    text = np.frombuffer(b"".join(codes), dtype=np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(text < 32)  # of each number
    first = np.append(0, last[:-1] + 1)
    shift = 5 * (np.arange(len(text)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((text & 31) << shift, first)
    numbers -= (text[last] & 16) << (shift[last] + 1)
    # Of each number: its string, and its place there.
    string = np.searchsorted(np.cumsum([len(code) for code in codes]), last, side="right")
    begin = np.flatnonzero(np.diff(string, prepend=-1))
    place = np.arange(len(numbers)) - begin[string]
    runs = numbers.copy()
    for parity in (0, 1):
        chosen = np.flatnonzero((place > 0) & (place % 2 == parity))
        sums = np.cumsum(numbers[chosen])
        heads = np.flatnonzero(place[chosen] <= 2)
        before = (sums - numbers[chosen])[heads]
        runs[chosen] = sums - np.repeat(before, np.diff(heads, append=len(chosen)))
    pixels = np.add.reduceat(runs, begin)
    pixels[string[runs < 0]] = -1
    return pixels


register(data_root())
