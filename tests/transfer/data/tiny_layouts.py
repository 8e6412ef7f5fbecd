"""Data sets of two images in every layout, where Detectron2 looks for them below a folder."""

import json
from contextlib import contextmanager

import numpy as np
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from tests.transfer.tiny import data_sets_at

WIDTH, HEIGHT = 48, 32
SQUARE = [[10, 10], [20, 10], [20, 20], [10, 20]]


def write_image(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit_json(path, change):
    """Let ``change`` alter the content of a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def write_people(root):
    """A COCO-format data set of two keypoints, ``left_hand`` and ``right_hand``."""
    category = {"id": 1, "name": "person", "keypoints": ["left_hand", "right_hand"]}
    images = [
        {"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT}
        for number in (1, 2)
    ]
    annotations = [
        _annotation(number) | {"keypoints": [10, 10, 2, 20, 20, 1], "num_keypoints": 2}
        for number in (1, 2)
    ]
    for image in images:
        write_image(root / "people" / image["file_name"])
    content = {"images": images, "annotations": annotations, "categories": [category]}
    write_json(root / "people.json", content)


def write_lvis(root):
    """One image in either COCO folder, all of LVIS's categories."""
    images = []
    for number, folder in enumerate(("train2017", "val2017"), start=1):
        write_image(root / "coco" / folder / f"{number}.jpg")
        images.append(
            {
                "id": number,
                "coco_url": f"http://images.cocodataset.org/{folder}/{number}.jpg",
                "width": WIDTH,
                "height": HEIGHT,
                "neg_category_ids": [3],
                "not_exhaustive_category_ids": [],
            }
        )
    categories = [
        {"id": number, "name": f"n{number}", "frequency": "f"} for number in range(1, 1204)
    ]
    annotations = [_annotation(number) for number in (1, 2)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_json(root / "lvis" / "lvis_v1_val.json", content)


def _annotation(number):
    return {
        "id": number,
        "image_id": number,
        "category_id": 1,
        "bbox": [10, 10, 10, 10],
        "area": 100,
        "iscrowd": 0,
        "segmentation": [[10, 10, 20, 10, 20, 20, 10, 20]],
    }


def write_cityscapes(root):
    """Two cities with an image each, and on it a car, a road and one more that was deleted."""
    objects = [
        {"label": "road", "polygon": [[0, 25], [48, 25], [48, 32], [0, 32]]},
        {"label": "car", "polygon": SQUARE},
        {"label": "car", "polygon": SQUARE, "deleted": 1},
    ]
    labels = root / "cityscapes" / "gtFine" / "val"
    for city in ("aachen", "bonn"):
        stem = f"{city}_000000_000019"
        write_image(root / "cityscapes" / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png")
        content = {"imgWidth": WIDTH, "imgHeight": HEIGHT, "objects": objects}
        write_json(labels / city / f"{stem}_gtFine_polygons.json", content)
        instances = np.zeros((HEIGHT, WIDTH), np.uint16)
        instances[10:21, 10:21] = 26000  # the first car
        for kind, pixels in (("instanceIds", instances), ("labelIds", instances // 1000)):
            file = labels / city / f"{stem}_gtFine_{kind}.png"
            Image.fromarray(pixels).save(file)


def write_voc(root):
    """Two images with a dog each."""
    root = root / "VOC2007"
    ids = ["000001", "000002"]
    for image_id in ids:
        write_image(root / "JPEGImages" / f"{image_id}.jpg")
        xml = root / "Annotations" / f"{image_id}.xml"
        xml.parent.mkdir(exist_ok=True)
        xml.write_text(
            f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object>"
            "<name>dog</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>20</xmax>"
            "<ymax>20</ymax></bndbox></object></annotation>"
        )
    split = root / "ImageSets" / "Main" / "test.txt"
    split.parent.mkdir(parents=True)
    split.write_text("\n".join(ids) + "\n")


WRITE = {
    "people": write_people,
    "lvis": write_lvis,
    "cityscapes": write_cityscapes,
    "voc": write_voc,
}
NAMES = {
    "people": "tiny_people",
    "lvis": "lvis_v1_val",
    "cityscapes": "cityscapes_fine_instance_seg_val",
    "voc": "voc_2007_test",
}


@contextmanager
def registered(layout, root):
    """The name of what ``WRITE[layout](root)`` wrote; Detectron2 knows it meanwhile."""
    with data_sets_at(root):
        if layout == "people":
            places = str(root / "people.json"), str(root / "people")
            register_coco_instances(NAMES[layout], {}, *places)
        yield NAMES[layout]
