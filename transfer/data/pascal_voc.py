"""PASCAL VOC's layout: a list of images, and an XML and a JPEG file for each."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from detectron2.data import MetadataCatalog

from pretrain.runtime.config import nearest
from transfer.data import layout
from transfer.data.layout import DataError, Dataset

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def check(name: str) -> Dataset:
    """The VOC data set ``name``: the list of its split, with an XML and a JPEG file for each line.

    All XML files are read; the sizes of 100 evenly spaced images are compared with theirs. Raises
    DataError.
    """
    metadata = MetadataCatalog.get(name)
    folder = Path(metadata.dirname)
    split = folder / "ImageSets" / "Main" / f"{metadata.split}.txt"
    layout.require_files([split])
    ids = split.read_text().split()
    if not ids:
        raise DataError(f"{split} is empty")
    if (twice := layout.first_twice(ids)) is not None:
        raise DataError(f"{split} lists {twice} twice")
    files = [folder / "Annotations" / f"{image_id}.xml" for image_id in ids]
    images = [folder / "JPEGImages" / f"{image_id}.jpg" for image_id in ids]
    layout.require_files([*files, *images])
    objects, sampled = 0, set(layout.sample(ids))
    for image_id, file, image in zip(ids, files, images, strict=True):
        size, labels = _read(file)
        for label in labels:
            if label not in metadata.thing_classes:
                hint = nearest(label, metadata.thing_classes)
                raise DataError(f"{file}: {label} is none of the task's classes{hint}")
        objects += len(labels)
        if image_id in sampled:
            layout.check_size(image, size, file)
    return Dataset(
        name=name,
        place=split,
        annotations=(split, *files),
        images=len(ids),
        objects=objects,
        classes=tuple(metadata.thing_classes),
    )


def _read(file: Path) -> tuple[tuple[int, int], list[str]]:
    """(width, height) of the image, and the class of each object; each must have a box."""
    try:
        tree = ElementTree.parse(file)
        size = int(tree.find("size/width").text), int(tree.find("size/height").text)
        labels = []
        for entry in tree.findall("object"):
            labels.append(entry.find("name").text)
            for corner in CORNERS:
                float(entry.find(f"bndbox/{corner}").text)
    except (ElementTree.ParseError, UnicodeDecodeError) as fault:
        raise DataError(f"{file} is not XML ({fault}); is it whole?") from fault
    except (AttributeError, TypeError, ValueError) as fault:
        raise DataError(f"{file} lacks a size, a name or a box ({fault})") from fault
    return size, labels
