"""Cityscapes' layout: an image and its label files, by split and city, in two parallel trees."""

import sys
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import cityscapesscripts
from detectron2.data import MetadataCatalog

from transfer.data import layout
from transfer.data.layout import DataError, Dataset

# Builds of Detectron2 since December 2024 look for the scripts where they are inside Meta only
for _name in ("deeplearning", "deeplearning.projects", "deeplearning.projects.cityscapesApi"):
    sys.modules.setdefault(_name, ModuleType(_name))
sys.modules.setdefault(f"{_name}.cityscapesscripts", cityscapesscripts)

IMAGE = "_leftImg8bit.png"
INSTANCES, LABELS, POLYGONS = (
    f"_gtFine_{kind}" for kind in ("instanceIds.png", "labelIds.png", "polygons.json")
)


def check(name: str) -> Dataset:
    """The Cityscapes data set ``name``: each image with its label files, and the reverse.

    All polygon files are read, and must name known labels; of 100 evenly spaced images the sizes
    of image and instance map are compared with the polygon file's. Raises DataError.
    """
    metadata = MetadataCatalog.get(name)
    label_root, images = Path(metadata.gt_dir), _images(Path(metadata.image_dir))
    # The paths of label files, without their endings: gtFine/val/ulm/ulm_000000_000019
    stems = [f"{label_root / i.parent.name / i.name.removesuffix(IMAGE)}" for i in images]
    labels = {kind: [Path(s + kind) for s in stems] for kind in (INSTANCES, LABELS, POLYGONS)}
    layout.require_files(chain(*labels.values()))
    alone = sorted(set(label_root.glob(f"*/*{INSTANCES}")).difference(labels[INSTANCES]))
    if alone:
        # Evaluation wants a prediction for every instance map that it finds.
        raise DataError(f"{alone[0]} has no image in leftImg8bit; evaluation would want one")
    objects, sampled = 0, set(layout.sample(images))
    for image, polygons, instances in zip(images, labels[POLYGONS], labels[INSTANCES], strict=True):
        content = layout.load_json(polygons)
        if absent := layout.absent_keys(content, ("imgWidth", "imgHeight", "objects")):
            raise DataError(f"{polygons} has no {absent}")
        objects += _count_objects(polygons, content["objects"], metadata.thing_classes)
        if image in sampled:
            size = (content["imgWidth"], content["imgHeight"])
            layout.check_size(image, size, polygons)
            layout.check_size(instances, size, polygons)
    return Dataset(
        name=name,
        place=label_root,
        annotations=(*labels[POLYGONS], *labels[INSTANCES]),
        images=len(images),
        objects=objects,
        classes=tuple(metadata.thing_classes),
        masks=True,
    )


def _images(root: Path) -> list[Path]:
    images = [
        root / city / file
        for city in layout.list_folder(root)
        for file in layout.list_folder(root / city)
    ]
    for image in images:
        if not image.name.endswith(IMAGE):
            raise DataError(f"{image} is not called ...{IMAGE}; Detectron2 stops at such a file")
    if not images:
        raise DataError(f"{root} holds no images")
    return images


def _count_objects(file: Path, objects: list[dict[str, Any]], classes: list[str]) -> int:
    """How many of a polygon file's objects are of the task's ``classes``, groups left out."""
    from cityscapesscripts.helpers.labels import name2label

    if not isinstance(objects, list) or not all(isinstance(entry, dict) for entry in objects):
        raise DataError(f"{file}: its objects are no list of mappings")
    count = 0
    for entry in objects:
        label = str(entry.get("label"))
        if label not in name2label and label.removesuffix("group") not in name2label:
            raise DataError(f"{file}: the label {label} is none of Cityscapes'")
        count += label in classes and "deleted" not in entry
    return count
