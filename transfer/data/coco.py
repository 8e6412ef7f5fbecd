"""COCO's layout: one JSON file and one image folder a split; with keypoints where it has them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.data import Metadata, MetadataCatalog

from transfer.data import layout
from transfer.data.layout import DataError, Dataset

KEYS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}
MIRRORED = {"left": "right", "right": "left"}


def check(name: str) -> Dataset:
    """The COCO-format data set ``name``, after a look at all of its JSON file and at its images.

    Every image must exist; the sizes of 100 evenly spaced ones are read and compared with their
    records. The names of keypoints become the data set's metadata where it has none (Detectron2
    takes classes from a JSON file, keypoints not). Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    file, folder = Path(metadata.json_file), Path(metadata.image_root)
    content = read_json(file, KEYS)
    classes = _classes(file, content["categories"], metadata)
    paths = [folder / image["file_name"] for image in content["images"]]
    dataset = check_content(name, file, content, classes, paths)
    try:
        return replace(dataset, keypoints=_keypoints(file, content, metadata))
    except DataError as fault:  # of no concern to a network that learns no keypoints
        return replace(dataset, keypoints_fault=f"{name}: {fault}")


def read_json(
    file: Path, required: dict[str, Sequence[str]], repeated: Sequence[str] = ()
) -> dict[str, Any]:
    """The mapping in a COCO-like ``file``, whose lists and entries have what is required.

    required: the keys of the entries of each list; repeated: the lists in which two entries may
    have one id.
    """
    content = layout.load_json(file)
    for section, keys in required.items():
        entries = content.get(section)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{file} lists no {section}")
        for number, entry in enumerate(entries):
            if absent := layout.absent_keys(entry, keys):
                raise DataError(f"{file}: {section}[{number}] has no {absent}")
        twice = layout.first_twice(entry["id"] for entry in entries)
        if twice is not None and section not in repeated:
            raise DataError(f"{file}: two {section} have the id {twice}")
    return content


def check_content(
    name: str, file: Path, content: dict[str, Any], classes: dict[int, str], paths: Sequence[Path]
) -> Dataset:
    """What a COCO-like ``file`` holds; DataError where its parts or its images do not fit together.

    Annotations must be of listed images and of known categories, images must exist, and 100 evenly
    spaced ones must have the sizes of their records. classes: name by category id, in the order of
    the network's; paths: of the images.
    """
    images, annotations = content["images"], content["annotations"]
    listed = {image["id"] for image in images}
    for annotation in annotations:
        where = f"{file}: annotation {annotation['id']}"
        if annotation["image_id"] not in listed:
            raise DataError(f"{where} is of image {annotation['image_id']}, which is not listed")
        if annotation["category_id"] not in classes:
            raise DataError(
                f"{where} has category_id {annotation['category_id']}, which the task does not "
                f"have (its {len(classes)} are {min(classes)} to {max(classes)})"
            )
    layout.require_files(paths)
    for image, path in layout.sample(list(zip(images, paths, strict=True))):
        layout.check_size(path, (image["width"], image["height"]), file)
    masks = [a.get("segmentation") for a in annotations if not a.get("iscrowd")]
    return Dataset(
        name=name,
        place=file,
        annotations=(file,),
        images=len(images),
        objects=len(annotations),
        classes=tuple(classes.values()),
        masks=all(masks),
        bitmasks=any(isinstance(mask, dict) for mask in masks),
    )


def _classes(file: Path, categories: list[dict[str, Any]], metadata: Metadata) -> dict[int, str]:
    """Category id: name, in the order of the ids, as Detectron2 numbers them.

    A data set whose classes Detectron2 knows beforehand must have these.
    """
    listed = {category["id"]: category["name"] for category in categories}
    listed = {key: listed[key] for key in sorted(listed)}
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if contiguous is None:
        known = dict(zip(listed, metadata.get("thing_classes", listed.values()), strict=False))
    else:
        known = {key: metadata.thing_classes[index] for key, index in contiguous.items()}
    for key in sorted(listed.keys() | known.keys()):
        found, wanted = listed.get(key, "missing"), known.get(key, "missing")
        if found != wanted:
            raise DataError(f"{file}: category {key} is {found}, in the task it is {wanted}")
    return known


def _keypoints(file: Path, content: dict[str, Any], metadata: Metadata) -> tuple[str, ...]:
    """The keypoints' names, which must be as many as every object has (x, y, visibility).

    Raises DataError for whatever a network could not learn them with.
    """
    named = [c["keypoints"] for c in content["categories"] if c.get("keypoints")]
    if not named:
        return ()
    if len(named) > 1 or len(content["categories"]) > 1:
        raise DataError(f"{file}: keypoints need one category, that of what has them")
    names = tuple(named[0])
    for annotation in content["annotations"]:
        where = f"{file}: annotation {annotation['id']}"
        numbers = len(annotation.get("keypoints") or ())
        if numbers != 3 * len(names):
            raise DataError(f"{where} has {numbers} keypoint numbers, not {len(names)} x 3")
        if "num_keypoints" not in annotation:
            raise DataError(f"{where} has no num_keypoints, the number of labelled ones")
    if metadata.get("keypoint_names") is None:
        metadata.set(keypoint_names=names, keypoint_flip_map=_flip_map(file, names))
    if names != tuple(metadata.keypoint_names):
        found, wanted = ", ".join(names), ", ".join(metadata.keypoint_names)
        raise DataError(f"{file}: its keypoints are {found}, the task's are {wanted}")
    return names


def _flip_map(file: Path, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What changes places in a mirrored image: ``left_x`` with ``right_x``."""
    pairs = []
    for one in names:
        other = "_".join(MIRRORED.get(word, word) for word in one.split("_"))
        if other not in names:
            raise DataError(f"{file}: there is a keypoint {one}, but no {other}")
        if "left" in one.split("_"):
            pairs.append((one, other))
    return tuple(pairs)
