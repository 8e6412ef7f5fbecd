"""COCO's layout: one JSON file and one image folder a split."""

import json
from pathlib import Path

from detectron2.data import MetadataCatalog

from transfer.data.layout import Dataset, error

SAMPLED_IMAGES = 100


def check(name: str) -> Dataset:
    """The COCO-format data set ``name``: JSON readable and not empty, images where it says.

    Looks for 100 evenly spaced images, not for all. Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    annotations, image_root = Path(metadata.json_file), Path(metadata.image_root)
    if not annotations.is_file():
        raise error(name, f"{annotations} does not exist")
    if not image_root.is_dir():
        raise error(name, f"image folder {image_root} does not exist")
    try:
        with open(annotations, "rb") as file:
            content = json.load(file)
        images = [image["file_name"] for image in content["images"]]
        objects = len(content["annotations"])
    except (ValueError, KeyError, TypeError) as fault:
        raise error(name, f"{annotations} is not a COCO file ({fault!r}); is it whole?") from fault
    if not images or not objects:
        raise error(name, f"{annotations} lists {len(images)} images and {objects} objects")
    for file_name in images[:: max(1, len(images) // SAMPLED_IMAGES)]:
        if not (image_root / file_name).is_file():
            raise error(name, f"image {image_root / file_name} does not exist")
    return Dataset(name, (annotations,), len(images), objects)
