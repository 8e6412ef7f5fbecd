"""Cityscapes' layout: images as PNG files by split and city, polygons, and the label maps of them.

As in the original, an object is one outline without holes, drawn over what stands behind it; the
label maps are drawn from the outlines by Cityscapes' own scripts.
"""

from pathlib import Path

import cv2
import numpy as np
from cityscapesscripts.helpers.annotation import Annotation
from cityscapesscripts.helpers.labels import name2label
from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
from cityscapesscripts.preparation.json2labelImg import createLabelImage
from PIL import Image

from benchmarks.scenes.scene import Instance, Scene
from pretrain.runtime.files import write_json

CITIES = {
    "train": (
        *("aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg"),
        *("hanover", "jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen"),
        *("ulm", "weimar", "zurich"),
    ),
    "val": ("frankfurt", "lindau", "munster"),
}
# Detections on the background count, those on things of no class of Cityscapes' do not.
BACKGROUND, OTHER = "terrain", "dynamic"


def add(root: Path, split: str, index: int, scene: Scene) -> None:
    """Write one labelled image and its four label files below ``root``."""
    cities = CITIES[split]
    city, number = cities[index % len(cities)], index // len(cities)
    stem = f"{city}_{number:06d}_000019"
    folder = root / "cityscapes"
    images, labels = folder / "leftImg8bit" / split / city, folder / "gtFine" / split / city
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    picture = images / f"{stem}_leftImg8bit.png"
    Image.fromarray(scene.image).save(picture, compress_level=1)  # 9 takes longer than drawing it

    polygons = labels / f"{stem}_gtFine_polygons.json"
    write_json(polygons, polygon_file(scene), indent=None)
    annotation = Annotation()
    annotation.fromJsonFile(str(polygons))
    instances = np.asarray(createInstanceImage(annotation, "ids"))
    maps = {
        "instanceIds": Image.fromarray(instances.astype(np.uint16)),
        "labelIds": createLabelImage(annotation, "ids"),
        "color": createLabelImage(annotation, "color"),
    }
    for kind, picture in maps.items():
        picture.save(labels / f"{stem}_gtFine_{kind}.png")


def finish(root: Path, entries: dict[str, list[None]]) -> None:
    """Nothing: every image has files of its own."""


def polygon_file(scene: Scene) -> dict:
    """The content of ``*_polygons.json``: objects from back to front, corners are pixel centres."""
    height, width = scene.image.shape[:2]
    corners = [[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]
    objects = [{"label": BACKGROUND, "polygon": corners}]
    for instance in reversed(scene.instances):
        objects.append({"label": _label(instance), "polygon": outline(instance.mask).tolist()})
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


def _label(instance: Instance) -> str:
    label = name2label.get(instance.name)
    if label is None or not label.hasInstances:
        return OTHER
    return f"{instance.name}group" if instance.is_crowd else instance.name


def outline(mask: np.ndarray) -> np.ndarray:
    """One closed line (n, 2) around all of ``mask``, through the centres of its outermost pixels.

    Pieces are joined by lines of one pixel; where another object parts them, it hides those.
    """
    joined = mask.astype(np.uint8)
    while len(contours := _contours(joined)) > 1:
        first, rest = contours[0], np.concatenate(contours[1:])
        distances = ((first[:, None] - rest[None]) ** 2).sum(axis=2)
        start, end = np.unravel_index(distances.argmin(), distances.shape)
        cv2.line(joined, first[start].tolist(), rest[end].tolist(), 1)
    return contours[0]


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [contour.reshape(-1, 2) for contour in found]
