"""COCO's layout: one JSON file and one image folder a split; with keypoints where it has them."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata, MetadataCatalog

from transfer.data.layout import (
    DataError,
    Dataset,
    check_size,
    error,
    first_twice,
    require_file,
    require_files,
    sample,
)

IMAGE_KEYS = ("id", "file_name", "width", "height")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
CATEGORY_KEYS = ("id", "name")
MIRRORED = {"left": "right", "right": "left"}


def check(name: str) -> Dataset:
    """The COCO-format data set ``name``, after a look at all of its JSON file and at its images.

    Every image must exist; the sizes of 100 evenly spaced ones are read and compared with their
    records. The names of keypoints become the data set's metadata where it has none (Detectron2
    takes classes from a JSON file, keypoints not). Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    file, folder = Path(metadata.json_file), Path(metadata.image_root)
    content = read_json(name, file, IMAGE_KEYS, ANNOTATION_KEYS, CATEGORY_KEYS)
    classes = _classes(name, file, content["categories"], metadata)
    check_annotations(name, file, content, classes)
    paths = [folder / image["file_name"] for image in content["images"]]
    check_images(name, file, content["images"], paths)
    masks = [a.get("segmentation") for a in content["annotations"] if not a.get("iscrowd")]
    keypoints, fault = (), ""
    try:
        keypoints = _keypoints(name, file, content, metadata)
    except DataError as wrong:  # of no concern to a network that learns no keypoints
        fault = str(wrong)
    return Dataset(
        name=name,
        place=file,
        annotations=(file,),
        images=len(content["images"]),
        objects=len(content["annotations"]),
        classes=tuple(classes.values()),
        masks=all(masks),
        bitmasks=any(isinstance(mask, dict) for mask in masks),
        keypoints=keypoints,
        keypoints_fault=fault,
    )


def read_json(
    name: str,
    file: Path,
    image_keys: Sequence[str],
    annotation_keys: Sequence[str],
    category_keys: Sequence[str],
    twice_allowed: Sequence[str] = (),
) -> dict[str, Any]:
    """The mapping in a COCO-like ``file``, whose lists and entries have what is asked for.

    twice_allowed: the lists in which two entries may have one id.
    """
    require_file(name, file)
    required = {"images": image_keys, "annotations": annotation_keys, "categories": category_keys}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as fault:
        raise error(name, f"{file} is not JSON ({fault}); is it whole?") from fault
    if not isinstance(content, dict):
        raise error(name, f"{file} holds a {type(content).__name__}, not a mapping")
    for section, keys in required.items():
        entries = content.get(section)
        if not isinstance(entries, list) or not entries:
            raise error(name, f"{file} lists no {section}")
        for number, entry in enumerate(entries):
            absent = [key for key in keys if not isinstance(entry, dict) or key not in entry]
            if absent:
                raise error(name, f"{file}: {section}[{number}] has no {', '.join(absent)}")
        twice = first_twice(entry["id"] for entry in entries)
        if twice is not None and section not in twice_allowed:
            raise error(name, f"{file}: two {section} have the id {twice}")
    return content


def check_annotations(
    name: str, file: Path, content: dict[str, Any], category_ids: Collection[int]
) -> None:
    """DataError where an annotation is of an image that is not listed, or of no known category."""
    images = {image["id"] for image in content["images"]}
    for annotation in content["annotations"]:
        where = f"{file}: annotation {annotation['id']}"
        if annotation["image_id"] not in images:
            raise error(name, f"{where} is of image {annotation['image_id']}, which is not listed")
        if annotation["category_id"] not in category_ids:
            raise error(
                name,
                f"{where} has category_id {annotation['category_id']}, which the task does not "
                f"have (its {len(category_ids)} are {min(category_ids)} to {max(category_ids)})",
            )


def check_images(
    name: str, file: Path, images: Sequence[dict[str, Any]], paths: Sequence[Path]
) -> None:
    """DataError where one of ``paths`` does not exist, or has not the size of its record.

    The size is looked up in the headers of 100 evenly spaced images.
    """
    require_files(name, paths)
    for image, path in sample(list(zip(images, paths, strict=True))):
        check_size(name, path, (image["width"], image["height"]), file)


def _classes(
    name: str, file: Path, categories: list[dict[str, Any]], metadata: Metadata
) -> dict[int, str]:
    """Category id: name, in the order of the ids, as Detectron2 numbers them.

    A data set whose classes Detectron2 knows beforehand must have these.
    """
    listed = {category["id"]: category["name"] for category in categories}
    listed = {key: listed[key] for key in sorted(listed)}
    if metadata.get("thing_dataset_id_to_contiguous_id") is None:
        names = metadata.get("thing_classes", list(listed.values()))
        if list(listed.values()) != list(names):
            raise error(
                name,
                f"{file}: its categories are {', '.join(listed.values())}, "
                f"the task's {', '.join(names)}",
            )
        return listed
    known = {
        key: metadata.thing_classes[index]
        for key, index in metadata.thing_dataset_id_to_contiguous_id.items()
    }
    for key in sorted(listed.keys() | known.keys()):
        if listed.get(key) != known.get(key):
            raise error(
                name,
                f"{file}: category {key} is {listed.get(key, 'missing')}, "
                f"in the task it is {known.get(key, 'missing')}",
            )
    return known


def _keypoints(
    name: str, file: Path, content: dict[str, Any], metadata: Metadata
) -> tuple[str, ...]:
    """The keypoints' names, which must be as many as every object has (x, y, visibility).

    Raises DataError for whatever a network could not learn them with.
    """
    named = [c["keypoints"] for c in content["categories"] if c.get("keypoints")]
    if not named:
        return ()
    if len(named) > 1 or len(content["categories"]) > 1:
        raise error(name, f"{file}: keypoints need one category, that of what has them")
    names = tuple(named[0])
    for annotation in content["annotations"]:
        where = f"{file}: annotation {annotation['id']}"
        numbers = len(annotation.get("keypoints") or ())
        if numbers != 3 * len(names):
            raise error(name, f"{where} has {numbers} keypoint numbers, not {len(names)} x 3")
        if "num_keypoints" not in annotation:
            raise error(name, f"{where} has no num_keypoints, the number of labelled ones")
    if metadata.get("keypoint_names") is None:
        metadata.set(keypoint_names=names, keypoint_flip_map=_flip_map(name, file, names))
    if names != tuple(metadata.keypoint_names):
        raise error(
            name,
            f"{file}: its keypoints are {', '.join(names)}, "
            f"the task's are {', '.join(metadata.keypoint_names)}",
        )
    return names


def _flip_map(name: str, file: Path, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What changes places in a mirrored image: ``left_x`` with ``right_x``."""
    pairs = []
    for one in names:
        other = "_".join(MIRRORED.get(word, word) for word in one.split("_"))
        if other not in names:
            raise error(name, f"{file}: there is a keypoint {one}, but no {other}")
        if "left" in one.split("_"):
            pairs.append((one, other))
    return tuple(pairs)
