"""LVIS's layout: one JSON file a split, its images in the COCO folders that ``coco_url`` names."""

from pathlib import Path

from detectron2.data import MetadataCatalog

from transfer.data.coco import KEYS as COCO_KEYS
from transfer.data.coco import check_content, read_json
from transfer.data.layout import DataError, Dataset

# Evaluation needs the two lists and the frequency.
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
KEYS = {
    "images": ("id", "coco_url", "width", "height", *FEDERATED),
    "annotations": (*COCO_KEYS["annotations"], "segmentation"),
    "categories": ("id", "name", "frequency"),
}


def check(name: str) -> Dataset:
    """The LVIS data set ``name``, after a look at all of its JSON file and at its images.

    Every image must exist in its COCO folder (those of LVIS's val lie in train2017 and val2017);
    the sizes of 100 evenly spaced ones are compared with their records. Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    file, root = Path(metadata.json_file), Path(metadata.image_root)
    content = read_json(file, KEYS)
    # Detectron2 numbers the classes by category id less 1.
    classes = dict(enumerate(metadata.thing_classes, start=1))
    differing = classes.keys() ^ {category["id"] for category in content["categories"]}
    if differing:
        raise DataError(
            f"{file}: file and task do not both have category {min(differing)}; the task's are 1 "
            f"to {len(classes)}, as in LVIS v1"
        )
    paths = [root.joinpath(*image["coco_url"].split("/")[-2:]) for image in content["images"]]
    return check_content(name, file, content, classes, paths)
