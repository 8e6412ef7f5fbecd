"""The one reading of COCO-like JSON files, for check, training and evaluation alike.

What comes out of it is clean: what reads it need not look again. What cannot be used is an error
that names the file and the entry.
"""

import reprlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from transfer.data import layout
from transfer.data.layout import DataError
from transfer.data.masks import are_numbers, clean_mask

ID = (int, float, str)  # names, whatever they look like
MAX_AREA = 1e10  # px²; the widest range of COCO's metrics ends there

LOST_SHARE = 0.001  # of boxes that nothing is to be seen of: COCO's own files have a few
UNIT_SHARE = 0.5  # of boxes below a pixel, from which on they are in another unit
CORNER_SHARE = 0.25  # of boxes that reach beyond the image, where the others might be corners
CORNERS = 0.95  # of boxes that might be corners: a few are never right

Entry = dict[str, Any]


@dataclass(frozen=True)
class Labels:
    """A file's content, and what was found while it was made clean.

    Of the content: widths and heights are whole numbers; boxes, in pixels, and areas are finite;
    where they are there, ``iscrowd`` is 0 or 1 and ``segmentation`` is as of ``clean_mask``.
    classes: name by category id, in the order of the network's classes.
    masks: whether all objects have one; bitmasks: whether one, crowds apart, is run lengths;
    mask_fault: which object has none, though others have.
    """

    file: Path
    content: dict[str, list[Entry]]
    classes: dict[Any, str]
    masks: bool
    bitmasks: bool
    mask_fault: str


def read(
    file: Path,
    required: Mapping[str, Collection[str]],
    classes_of: Callable[[list[Entry]], dict[Any, str]],
) -> Labels:
    """A COCO-like ``file``, made clean; DataError where that cannot be.

    required: the lists that it must have, and the keys of their entries; classes_of: ``classes`` of
    its categories.
    """
    content = layout.load_json(file)
    for section, keys in required.items():
        entries = content.get(section)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{file} lists no {section}")
        for number, entry in enumerate(entries):
            if absent := layout.absent_keys(entry, keys):
                raise DataError(f"{file}: {section}[{number}] has no {absent}")
        _check_ids(file, section, entries)
    in_use = {"file_name", "coco_url"} & {"file_name", *required["images"]}
    for what, section, keys in (("image", "images", in_use), ("category", "categories", {"name"})):
        for entry in content[section]:
            for key in keys & entry.keys():
                if not (isinstance(entry[key], str) and entry[key]):
                    found = f"{what} {entry['id']!r} has the {key} {reprlib.repr(entry[key])}"
                    raise DataError(f"{file}: {found}, not text")
    for image in content["images"]:
        for key in ("width", "height"):
            value = image[key]
            if type(value) not in (int, float) or not value >= 1 or value % 1:
                found = f"{file}: image {image['id']!r} has the {key} {reprlib.repr(value)}"
                raise DataError(f"{found}, not a whole number of pixels")
            image[key] = int(value)
    classes = classes_of(content["categories"])
    return _clean_annotations(file, content, classes)


def _check_ids(file: Path, section: str, entries: list[Entry]) -> None:
    """DataError for an id that is no name, and for one that comes twice; objects need none."""
    kinds = (*ID, type(None)) if section == "annotations" else ID
    for number, entry in enumerate(entries):
        if type(entry.get("id")) not in kinds:
            found = reprlib.repr(entry["id"])
            raise DataError(f"{file}: {section}[{number}] has the id {found}, no number or text")
    # In the published minival files of COCO 2014 some annotations have one id
    if section != "annotations" or "minival" not in file.name:
        ids = [entry["id"] for entry in entries if entry.get("id") is not None]
        if (twice := layout.first_twice(ids)) is not None:
            raise DataError(f"{file}: two {section} have the id {twice!r}")


def _clean_annotations(file: Path, content: dict[str, Any], classes: dict[Any, str]) -> Labels:
    """One pass over all of them; see ``Labels``."""
    annotations = content["annotations"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    unmasked, first_fault, labelled, bitmasks = 0, "", False, False
    for number, annotation in enumerate(annotations):
        if fault := _fault(annotation, sizes, classes):
            raise DataError(f"{where(file, number, annotation)} {fault}")
        if "iscrowd" in annotation:
            annotation["iscrowd"] = int(annotation["iscrowd"] or 0)
        label = annotation.pop("segmentation", None)
        labelled = labelled or bool(label)
        try:
            mask = clean_mask(label, sizes[annotation["image_id"]])
        except ValueError as found:
            unmasked += 1
            first_fault = first_fault or f"{where(file, number, annotation)}: {found}"
        else:
            annotation["segmentation"] = mask
            if isinstance(mask, dict) and not annotation.get("iscrowd"):
                bitmasks = True
    mask_fault = ""
    if labelled and unmasked:
        mask_fault = f"{first_fault} ({unmasked} of {len(annotations)} annotations have no mask)"
    return Labels(
        file=file,
        content=content,
        classes=classes,
        masks=not unmasked,
        bitmasks=bitmasks,
        mask_fault=mask_fault,
    )


def where(file: Path, number: int, annotation: Entry) -> str:
    """An annotation for a message: by its id, or else by its place in the list."""
    known = annotation.get("id") is not None
    return f"{file}: annotation {annotation['id']!r}" if known else f"{file}: annotations[{number}]"


def _fault(annotation: Entry, sizes: Mapping[Any, Any], classes: Mapping[Any, str]) -> str:
    """What is wrong with an annotation, its mask and its keypoints apart, or nothing."""
    image_id, category_id = annotation["image_id"], annotation["category_id"]
    if type(image_id) not in ID or image_id not in sizes:
        return f"is of image {image_id!r}, which is not listed{_alike(image_id, sizes)}"
    if type(category_id) not in ID or category_id not in classes:
        listed = list(classes)
        return (
            f"has category_id {category_id!r}, which the task does not have (its {len(listed)} are "
            f"{listed[0]!r} to {listed[-1]!r}){_alike(category_id, classes)}"
        )
    box, area, crowd = annotation["bbox"], annotation["area"], annotation.get("iscrowd")
    if not are_numbers(box) or len(box) != 4 or min(box[2:]) < 0 or max(map(abs, box)) > MAX_AREA:
        return f"has the bbox {reprlib.repr(box)}: not x, y, width, height in pixels"
    if type(area) not in (int, float) or not 0 <= area <= MAX_AREA:
        return f"has the area {reprlib.repr(area)}: not that of its mask or box in square pixels"
    if crowd not in (None, 0, 1):
        return f"has iscrowd {reprlib.repr(crowd)}: not the number 0 or 1"
    return ""


def _alike(value: Any, known: Collection[Any]) -> str:
    """A hint where ``value`` looks like one of ``known``, but is of another type."""
    alike = [one for one in known if str(one) == str(value)]
    return f", but {alike[0]!r} is: text and numbers differ" if alike else ""


def check_boxes(labels: Labels) -> list[str]:
    """What cannot be seen of the boxes, in words; DataError where these are misunderstood."""
    file, annotations = labels.file, labels.content["annotations"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in labels.content["images"]}
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=float)
    limits = np.array([sizes[annotation["image_id"]] for annotation in annotations])
    ends = boxes[:, :2] + boxes[:, 2:]
    form, count = "a bbox is x, y, width, height in pixels", len(boxes)
    tiny = int((boxes[:, 2:].max(axis=1) <= 1).sum())
    if tiny > UNIT_SHARE * count:
        found = f"{tiny} of {count} boxes are no larger than a pixel"
        raise DataError(f"{file}: {found}: shares of the image? ({form})")
    beyond = int((ends > limits + 1).any(axis=1).sum())
    as_corners = (boxes[:, 2:] > boxes[:, :2]) & (boxes[:, 2:] <= limits + 1)
    if beyond > CORNER_SHARE * count and as_corners.all(axis=1).mean() >= CORNERS:
        found = f"{beyond} of {count} boxes reach beyond their images"
        raise DataError(f"{file}: {found}: two corners? ({form})")
    seen = np.minimum(ends, limits) - np.maximum(boxes[:, :2], 0)
    lost = np.flatnonzero((seen <= 0).any(axis=1))
    cut = np.flatnonzero((seen < boxes[:, 2:] - 1).any(axis=1) & (seen > 0).all(axis=1))
    notes = []
    for found, said in (
        (lost, "have nothing in their images and cannot be learnt or found"),
        (cut, "reach beyond their images, where training cuts them"),
    ):
        if len(found):
            one = annotations[found[0]]
            first = f"{where(file, int(found[0]), one)} has the bbox {one['bbox']}"
            notes.append(f"{len(found)} of {count} boxes {said} (the first: {first})")
    if len(lost) > LOST_SHARE * count:
        raise DataError(f"{notes[0]}; {form}")
    areas = np.array([annotation["area"] for annotation in annotations], dtype=float)
    of_boxes = (boxes[:, 2] + 1) * (boxes[:, 3] + 1)
    odd = np.flatnonzero((areas > 2 * of_boxes) | ((areas == 0) & (boxes[:, 2:].min(axis=1) > 1)))
    if len(odd) > LOST_SHARE * count:
        one = annotations[odd[0]]
        found = (
            f"{where(file, int(odd[0]), one)} has the area {one['area']} and the bbox {one['bbox']}"
        )
        raise DataError(f"{found}, and {len(odd) - 1} more are like it: area is in square pixels")
    return notes


def records(
    labels: Labels, paths: Sequence[Path], copied: Sequence[str] = (), of_image: Sequence[str] = ()
) -> list[Entry]:
    """Detectron2's records, ordered by image id; paths: of the images.

    copied, of_image: further keys of annotations and of images, where these have them.
    """
    numbers = {category_id: number for number, category_id in enumerate(labels.classes)}
    objects = defaultdict(list)
    for annotation in labels.content["annotations"]:
        kept = {key: annotation[key] for key in ("segmentation", *copied) if key in annotation}
        kept |= {"bbox": annotation["bbox"], "bbox_mode": BoxMode.XYWH_ABS}
        kept["category_id"] = numbers[annotation["category_id"]]
        objects[annotation["image_id"]].append(kept)
    images = zip(labels.content["images"], paths, strict=True)
    return [
        {key: image[key] for key in of_image}
        | {
            "file_name": str(path),
            "height": image["height"],
            "width": image["width"],
            "image_id": image["id"],
            "annotations": objects[image["id"]],
        }
        for image, path in sorted(images, key=lambda pair: by_id(pair[0]["id"]))
    ]


def by_id(value: Any) -> tuple[bool, Any]:
    """A key to sort ids by: numbers first, then text."""
    return isinstance(value, str), value
