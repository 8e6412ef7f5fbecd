"""Flip tables and DensePose data sets in a test's folder."""

from contextlib import contextmanager

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as coco_mask
from scipy.io import savemat

from tests.transfer.densepose.golden import load
from tests.transfer.tiny_layouts import write_image, write_json
from transfer.data.densepose import SPLITS, register
from transfer.data.layout import data_root

MINIVAL = "densepose_coco_2014_minival"


def write_table(file, **changes):
    """The golden table as the published file has it: two variables of 24 cells."""
    golden = load("flip")
    content = {}
    for letter in "UV":
        cells = np.empty((1, 24), dtype=object)
        for chart in range(24):
            cells[0, chart] = golden[f"lut_{letter.lower()}_q"][chart] / 255.0
        content[f"{letter}_transforms"] = cells
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, content | changes)
    return file


def runs(mask):
    """A mask as the JSON files have it."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded | {"counts": encoded["counts"].decode()}


def person(number, image=1, points=3, **changes):
    """An annotated person; ``points`` 0 for one that is not."""
    annotation = {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [10, 10, 20, 16],
        "area": 320,
        "iscrowd": 0,
        "segmentation": [[10, 10, 30, 10, 30, 26, 10, 26]],
    }
    if points:
        torso = np.zeros((256, 256))
        torso[50:200, 20:90] = 1
        annotation |= {
            "dp_x": [10.5, 200.0, 256.0][:points],
            "dp_y": [0.0, 30.25, 99.0][:points],
            "dp_I": [1.0, 24.0, 7.0][:points],
            "dp_U": [0.0, 0.5, 1.0][:points],
            "dp_V": [0.25, 1.0, 0.0][:points],
            "dp_masks": [runs(torso), *([] for _ in range(13))],
        }
    return annotation | changes


def write_data(root, name, annotations, images=2):
    """A split's JSON file and its images, 48 x 32 pixels, ids 1, 2, ..."""
    file, folder = SPLITS[name]
    listed = [
        {"id": n, "file_name": f"{n}.jpg", "width": 48, "height": 32} for n in range(1, images + 1)
    ]
    for image in listed:
        write_image(root / "coco" / folder / image["file_name"])
    categories = [{"id": 1, "name": "person"}]
    content = {"images": listed, "annotations": annotations, "categories": categories}
    write_json(root / "coco" / "annotations" / file, content)


@contextmanager
def registered_at(root):
    """The four data sets read below ``root`` instead of where they did."""
    _register_again(root)
    try:
        yield
    finally:
        _register_again(data_root())


def _register_again(root):
    for name in SPLITS:
        DatasetCatalog.pop(name)
        MetadataCatalog.pop(name)
    register(root)
