"""COCO's layout: one JSON file and one image folder a split; with keypoints where it has them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from transfer.data import layout, reading
from transfer.data.keypoints import keypoints_of
from transfer.data.layout import DataError, Dataset
from transfer.data.reading import Labels

KEYS = {
    "images": ("id", "width", "height"),  # and file_name, which evaluation does without
    "annotations": ("image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


def register(name: str, json_file: str, image_root: str) -> None:
    """Make a data set of this layout known to Detectron2."""
    DatasetCatalog.register(name, lambda: load(name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco")


def read(name: str) -> Labels:
    """The labels of the COCO-format data set ``name``, whose classes become its metadata.

    Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    file = Path(metadata.json_file)
    labels = reading.read(file, KEYS, lambda categories: _classes(file, categories, metadata))
    annotations = labels.content["annotations"]
    if ignored := [a.get("id") for a in annotations if a.get("ignore")]:
        raise DataError(f"{file}: annotation {ignored[0]!r} has ignore set: only iscrowd is known")
    if all(annotation.get("iscrowd") for annotation in annotations):
        raise DataError(f"{file}: iscrowd is 1 in all annotations, so that none can be learnt")
    metadata.set(
        thing_classes=list(labels.classes.values()),
        thing_dataset_id_to_contiguous_id={key: k for k, key in enumerate(labels.classes)},
    )
    return labels


def paths_of(name: str, labels: Labels) -> list[Path]:
    """The paths of the images; DataError for one that has no name."""
    folder, images = Path(MetadataCatalog.get(name).image_root), labels.content["images"]
    for image in images:
        if "file_name" not in image:
            raise DataError(f"{labels.file}: image {image['id']!r} has no file_name")
    return [folder / image["file_name"] for image in images]


def load(name: str) -> list[dict[str, Any]]:
    """Detectron2's records of the data set; keypoints are in them where they can be learnt.

    Raises DataError.
    """
    labels, copied = read(name), ["iscrowd"]
    try:
        if keypoints_of(labels, MetadataCatalog.get(name)):
            copied.append("keypoints")
    except DataError:  # of no concern to a network that learns none
        pass
    found = reading.records(labels, paths_of(name, labels), copied)
    for record in found:
        for annotation in record["annotations"]:
            if "keypoints" in annotation:
                # COCO's are whole pixels, Detectron2's lie on a line whose pixel centers are at .5
                points = enumerate(annotation["keypoints"])
                annotation["keypoints"] = [v if k % 3 == 2 else v + 0.5 for k, v in points]
    return found


def check(name: str) -> Dataset:
    """The COCO-format data set ``name``, after a look at all of its JSON file and at its images.

    Every image must exist; the sizes of 100 evenly spaced ones are read and compared with their
    records. The names of keypoints become the data set's metadata where it has none (Detectron2
    takes classes from a JSON file, keypoints not). Raises DataError.
    """
    labels, metadata = read(name), MetadataCatalog.get(name)
    dataset = check_images(name, labels, paths_of(name, labels))
    try:
        dataset = replace(dataset, keypoints=keypoints_of(labels, metadata))
    except DataError as fault:  # of no concern to a network that learns no keypoints
        return replace(dataset, keypoints_fault=f"{name}: {fault}")
    if len(dataset.keypoints) > 1 and not metadata.keypoint_flip_map:
        said = "no keypoints change places in a mirrored image"
        return replace(dataset, notes=(*dataset.notes, said))
    return dataset


def check_images(name: str, labels: Labels, paths: list[Path]) -> Dataset:
    """The data set of these labels; DataError where boxes or images do not fit them.

    Images must exist, and 100 evenly spaced ones must have the sizes of their records.
    """
    images, notes = labels.content["images"], reading.check_boxes(labels)
    layout.require_files(paths)
    for image, path in layout.sample(list(zip(images, paths, strict=True))):
        layout.check_size(path, (image["width"], image["height"]), labels.file)
    return Dataset(
        name=name,
        place=labels.file,
        annotations=(labels.file,),
        images=len(images),
        objects=len(labels.content["annotations"]),
        classes=tuple(labels.classes.values()),
        masks=labels.masks,
        mask_fault=labels.mask_fault and f"{name}: {labels.mask_fault}",
        bitmasks=labels.bitmasks,
        notes=tuple(notes),
    )


def _classes(file: Path, categories: list[dict[str, Any]], metadata: Metadata) -> dict[int, str]:
    """Category id: name, in the order of the ids, as Detectron2 numbers them.

    A data set whose classes Detectron2 knows beforehand must have these.
    """
    listed = {category["id"]: category["name"] for category in categories}
    listed = {key: listed[key] for key in sorted(listed, key=reading.by_id)}
    contiguous = metadata.get("thing_dataset_id_to_contiguous_id")
    if contiguous is None:
        known = dict(zip(listed, metadata.get("thing_classes", listed.values()), strict=False))
    else:
        known = {key: metadata.thing_classes[index] for key, index in contiguous.items()}
    for key in sorted(listed.keys() | known.keys(), key=reading.by_id):
        found, wanted = listed.get(key, "missing"), known.get(key, "missing")
        if found != wanted:
            raise DataError(f"{file}: category {key} is {found}, in the task it is {wanted}")
    return known
