"""LVIS's layout: one JSON file a split, its images in the COCO folders that ``coco_url`` names."""

from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from transfer.data import coco, reading
from transfer.data.layout import DataError, Dataset
from transfer.data.reading import Labels

# Evaluation needs the two lists and the frequency.
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
KEYS = {
    "images": ("id", "coco_url", "width", "height", *FEDERATED),
    "annotations": (*coco.KEYS["annotations"], "segmentation"),
    "categories": ("id", "name", "frequency"),
}


def read(name: str) -> Labels:
    """The labels of the LVIS data set ``name``; DataError where they cannot be used."""
    metadata = MetadataCatalog.get(name)
    file = Path(metadata.json_file)
    # Detectron2 numbers the classes by category id less 1.
    classes = dict(enumerate(metadata.thing_classes, start=1))

    def classes_of(categories: list[dict[str, Any]]) -> dict[int, str]:
        if differing := classes.keys() ^ {category["id"] for category in categories}:
            first = min(differing, key=reading.by_id)
            raise DataError(
                f"{file}: file and task do not both have category {first!r}; the task's are 1 to "
                f"{len(classes)}, as in LVIS v1"
            )
        return classes

    labels = reading.read(file, KEYS, classes_of)
    for image in labels.content["images"]:
        for key in FEDERATED:
            if not isinstance(image[key], list):
                raise DataError(f"{file}: image {image['id']!r}: {key} is no list of category ids")
    return labels


def paths_of(name: str, labels: Labels) -> list[Path]:
    """The paths of the images; those of LVIS's val lie in train2017 and val2017."""
    root = Path(MetadataCatalog.get(name).image_root)
    return [root.joinpath(*i["coco_url"].split("/")[-2:]) for i in labels.content["images"]]


def load(name: str) -> list[dict[str, Any]]:
    """Detectron2's records of the data set; LVIS has no crowds."""
    labels = read(name)
    return reading.records(labels, paths_of(name, labels), of_image=FEDERATED)


def check(name: str) -> Dataset:
    """The LVIS data set ``name``, after a look at all of its JSON file and at its images.

    Every image must exist in its COCO folder; the sizes of 100 evenly spaced ones are compared with
    their records. Raises DataError.
    """
    labels = read(name)
    return coco.check_images(name, labels, paths_of(name, labels))
