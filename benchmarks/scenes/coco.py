"""COCO 2017's layout: instances_*.json with polygons, run lengths for crowds, and the images."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.scenes.scene import Instance, Scene
from pretrain.runtime.files import write_json

# Official ids run from 1 to 90 with gaps, shown as "-".
_NAMES = {
    "person": "person",
    "vehicle": "bicycle car motorcycle airplane bus train truck boat",
    "outdoor": "traffic_light fire_hydrant - stop_sign parking_meter bench",
    "animal": "bird cat dog horse sheep cow elephant bear zebra giraffe",
    "accessory": "- backpack umbrella - - handbag tie suitcase",
    "sports": "frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard "
    "surfboard tennis_racket",
    "kitchen": "bottle - wine_glass cup fork knife spoon bowl",
    "food": "banana apple sandwich orange broccoli carrot hot_dog pizza donut cake",
    "furniture": "chair couch potted_plant bed - dining_table - - toilet -",
    "electronic": "tv laptop mouse remote keyboard cell_phone",
    "appliance": "microwave oven toaster sink refrigerator -",
    "indoor": "book clock vase scissors teddy_bear hair_drier toothbrush",
}
CATEGORIES = [
    {"supercategory": group, "id": number, "name": name.replace("_", " ")}
    for number, (group, name) in enumerate(
        ((group, name) for group, names in _NAMES.items() for name in names.split()), start=1
    )
    if name != "-"
]
CATEGORY_IDS = {category["name"]: category["id"] for category in CATEGORIES}
CATEGORY_IDS["rider"] = CATEGORY_IDS["person"]  # COCO tells no riders from people

FOLDERS = {"unlabelled": "unlabeled2017", "train": "train2017", "val": "val2017"}
FIRST_IDS = {"train": 1, "val": 1_000_001, "unlabelled": 2_000_001}  # disjoint, as COCO's are
JPEG_QUALITY = 92


def image_id(split: str, index: int) -> int:
    """The id of an image, the same in every JSON file."""
    return FIRST_IDS[split] + index


def image_path(split: str, index: int) -> Path:
    """Where an image lies below the root; other layouts use the same file."""
    return Path("coco", FOLDERS[split], f"{image_id(split, index):012d}.jpg")


def image_entry(split: str, index: int, scene: Scene) -> dict:
    """An entry of "images"."""
    height, width = scene.image.shape[:2]
    return {
        "license": 1,
        "file_name": image_path(split, index).name,
        "height": height,
        "width": width,
        "id": image_id(split, index),
    }


def add_image(root: Path, split: str, index: int, scene: Scene) -> None:
    """Write one image below ``root``."""
    path = root / image_path(split, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path, quality=JPEG_QUALITY, subsampling=0)


def add(root: Path, split: str, index: int, scene: Scene) -> dict:
    """Write one labelled image below ``root``; returns its entries for the split's JSON."""
    add_image(root, split, index, scene)
    image = image_entry(split, index, scene)
    annotations = [annotation(one, image, number) for number, one in enumerate(scene.instances)]
    return {"image": image, "annotations": annotations}


def link(root: Path, split: str, index: int, target: Path) -> None:
    """Put an image that ``add`` has written in a second place, without its bytes if possible."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = root / image_path(split, index)
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def finish(root: Path, entries: dict[str, list[dict]]) -> None:
    """Write the JSON files of the labelled splits from what ``add`` returned, in order."""
    for split, images in entries.items():
        path = root / "coco" / "annotations" / f"instances_{FOLDERS[split]}.json"
        write_labels(path, images, CATEGORIES, "COCO 2017")


def write_labels(path: Path, entries: list[dict], categories: list[dict], layout: str) -> None:
    """Write a JSON file of COCO's kind from the entries of its images."""
    write_json(
        path,
        {
            "info": {"description": f"Drawn scenes in the layout of {layout}", "version": "1"},
            "licenses": [{"id": 1, "name": "MIT", "url": "https://opensource.org/license/mit"}],
            "images": [entry["image"] for entry in entries],
            "annotations": [label for entry in entries for label in entry["annotations"]],
            "categories": categories,
        },
        indent=None,
    )


def annotation(instance: Instance, image: dict, number: int) -> dict:
    """An entry of "annotations"; boxes are x, y, width, height in px, areas visible pixels.

    image: its entry of "images"; number: of the label in that image, under 100.
    """
    crowd = instance.is_crowd
    return {
        "segmentation": run_lengths(instance.mask) if crowd else polygons(instance.mask),
        "area": float(instance.area),
        "iscrowd": int(crowd),
        "image_id": image["id"],
        "bbox": [float(value) for value in instance.box],
        "category_id": CATEGORY_IDS[instance.name],
        "id": 100 * image["id"] + number,
    }


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths: column by column, beginning with the length of a 0-run."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat, prepend=0, append=2))
    return {
        "counts": [int(n) for n in np.diff(changes, prepend=0)],
        "size": list(mask.shape),
    }


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines along the pixels' edges, one or more closed x0, y0, x1, y1, ... without holes."""
    # As floats: Detectron2 scales the coordinates in place, and whole numbers would be truncated.
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    corner = np.array([columns[0], rows[0]], dtype=float)
    outlines = _outlines(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return [(outline + corner).ravel().tolist() for outline in outlines]


def _outlines(mask: np.ndarray) -> list[np.ndarray]:
    # cv2 follows pixel centres. With every pixel doubled, the centres at 2x and 2x + 1 belong to
    # the edges x and x + 1 of pixel x.
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, links = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    edges = [(contour.reshape(-1, 2) + 1) // 2 for contour in contours]
    holes = [edge for edge, link in zip(edges, links.reshape(-1, 4), strict=True) if link[3] >= 0]
    if not holes:
        return [_corners(edge) for edge in edges]
    # COCO's polygons know no holes: cut the mask through one and go on with both halves.
    middle = (holes[0][:, 0].min() + holes[0][:, 0].max()) // 2
    left, right = mask.copy(), mask.copy()
    left[:, middle:] = right[:, :middle] = False
    return [outline for half in (left, right) if half.any() for outline in _outlines(half)]


def _corners(outline: np.ndarray) -> np.ndarray:
    """The outline without repeated points and points between two others in line."""
    outline = outline[(outline != np.roll(outline, 1, axis=0)).any(axis=1)]
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    return outline[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
