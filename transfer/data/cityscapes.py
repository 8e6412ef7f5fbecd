"""Cityscapes' layout: an image and its label files, by split and city, in two parallel trees."""

import json
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from transfer.data.layout import Dataset, check_size, error, list_folder, require_files, sample

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
    image_root, label_root = Path(metadata.image_dir), Path(metadata.gt_dir)
    images = _images(name, image_root)
    stems = [
        label_root / image.parent.name / image.name.removesuffix(IMAGE) for image in images
    ]  # as in gtFine/val/frankfurt/frankfurt_000000_000294
    require_files(name, [_beside(s, k) for s in stems for k in (INSTANCES, LABELS, POLYGONS)])
    _check_no_more(name, label_root, stems)
    objects = 0
    sampled = set(sample(images))
    for image, stem in zip(images, stems, strict=True):
        polygons, instances = _beside(stem, POLYGONS), _beside(stem, INSTANCES)
        content = _read(name, polygons)
        objects += _count_objects(name, polygons, content["objects"], metadata.thing_classes)
        if image in sampled:
            size = (content["imgWidth"], content["imgHeight"])
            check_size(name, image, size, polygons)
            check_size(name, instances, size, polygons)
    return Dataset(
        name=name,
        place=label_root,
        annotations=tuple(_beside(s, k) for s in stems for k in (POLYGONS, INSTANCES)),
        images=len(images),
        objects=objects,
        classes=tuple(metadata.thing_classes),
        masks=True,
    )


def _images(name: str, root: Path) -> list[Path]:
    images = [
        root / city / file
        for city in list_folder(name, root)
        for file in list_folder(name, root / city)
    ]
    for image in images:
        if not image.name.endswith(IMAGE):
            raise error(name, f"{image} is not called ...{IMAGE}; Detectron2 stops at such a file")
    if not images:
        raise error(name, f"{root} holds no images")
    return images


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _check_no_more(name: str, label_root: Path, stems: list[Path]) -> None:
    """Evaluation wants a prediction for every instance map that it finds."""
    known = {_beside(stem, INSTANCES) for stem in stems}
    for file in sorted(label_root.glob(f"*/*{INSTANCES}")):
        if file not in known:
            raise error(name, f"{file} has no image in leftImg8bit; evaluation would want one")


def _read(name: str, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as fault:
        raise error(name, f"{file} is not JSON ({fault}); is it whole?") from fault
    keys = ("imgWidth", "imgHeight", "objects")
    absent = [key for key in keys if not isinstance(content, dict) or key not in content]
    if absent:
        raise error(name, f"{file} has no {', '.join(absent)}")
    return content


def _count_objects(name: str, file: Path, objects: list[dict[str, Any]], classes: list[str]) -> int:
    """How many of a polygon file's objects are of the task's ``classes``, groups left out."""
    from cityscapesscripts.helpers.labels import name2label

    count = 0
    for entry in objects:
        label = entry.get("label")
        if label not in name2label and str(label).removesuffix("group") not in name2label:
            raise error(name, f"{file}: the label {label} is none of Cityscapes'")
        count += label in classes and "deleted" not in entry
    return count
