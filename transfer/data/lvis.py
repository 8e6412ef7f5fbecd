"""LVIS's layout: one JSON file a split, its images in the COCO folders that ``coco_url`` names."""

from pathlib import Path

from detectron2.data import MetadataCatalog

from transfer.data.coco import ANNOTATION_KEYS, check_annotations, check_images, read_json
from transfer.data.layout import Dataset, error

# The evaluator needs the two lists and the frequency.
IMAGE_KEYS = (
    *("id", "coco_url", "width", "height"),
    *("neg_category_ids", "not_exhaustive_category_ids"),
)
CATEGORY_KEYS = ("id", "name", "frequency")


def check(name: str) -> Dataset:
    """The LVIS data set ``name``, after a look at all of its JSON file and at its images.

    Every image must exist in its COCO folder (those of LVIS's val lie in train2017 and val2017);
    of each folder, the sizes of 100 evenly spaced images are compared. Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    file, root = Path(metadata.json_file), Path(metadata.image_root)
    content = read_json(name, file, IMAGE_KEYS, (*ANNOTATION_KEYS, "segmentation"), CATEGORY_KEYS)
    classes = metadata.thing_classes  # Detectron2 numbers them by category id less 1
    category_ids = range(1, len(classes) + 1)
    listed = {category["id"] for category in content["categories"]}
    if listed != set(category_ids):
        odd = min(listed.symmetric_difference(category_ids))
        place = "the task has" if odd in category_ids else "the file has"
        raise error(
            name,
            f"{file}: only {place} category {odd}; the task's {len(classes)} are 1 to "
            f"{len(classes)}, as in LVIS v1",
        )
    check_annotations(name, file, content, category_ids)
    folders: dict[str, list] = {}
    for image in content["images"]:
        folder, file_name = image["coco_url"].split("/")[-2:]
        folders.setdefault(folder, []).append((image, root / folder / file_name))
    for pairs in folders.values():
        images, paths = zip(*pairs, strict=True)
        check_images(name, file, images, paths)
    return Dataset(
        name=name,
        place=file,
        annotations=(file,),
        images=len(content["images"]),
        objects=len(content["annotations"]),
        classes=tuple(classes),
        masks=True,
    )
