"""PASCAL VOC's layout: VOC2007 and VOC2012, an XML file for each image, and lists of them.

The training images are VOC 2007's and VOC 2012's trainval by turns, the validation images VOC
2007's test.
"""

from pathlib import Path
from xml.etree import ElementTree

from benchmarks.scenes import coco
from benchmarks.scenes.scene import CLASSES, Instance, Scene

# VOC's name for each of our classes; trucks are none of VOC's.
NAMES = {name: name for name in CLASSES if name != "truck"} | {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "rider": "person",
    "tv": "tvmonitor",
}
FIRST_TEST_IMAGE = 500_000  # of VOC2007, whose trainval begins at 0
TRUNCATED = OCCLUDED = 0.15  # share of an object that lies beyond the border, or is hidden

Entry = tuple[str, str, str]  # folder, list and image, as VOC2007, trainval and 000012


def add(root: Path, split: str, index: int, scene: Scene) -> Entry:
    """Write one image's XML file and link its picture, which ``coco`` has written."""
    entry = folder, _, name = _place(split, index)
    picture = root / folder / "JPEGImages" / f"{name}.jpg"
    coco.link(root, split, index, picture)
    tree = _xml(folder, name, scene)
    ElementTree.indent(tree)
    path = root / folder / "Annotations" / f"{name}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ElementTree.tostring(tree) + b"\n")
    return entry


def finish(root: Path, entries: dict[str, list[Entry]]) -> None:
    """Write the lists of images."""
    lists: dict[Path, list[str]] = {}
    for folder, image_list, name in (entry for images in entries.values() for entry in images):
        path = root / folder / "ImageSets" / "Main" / f"{image_list}.txt"
        lists.setdefault(path, []).append(name)
    for path, names in lists.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))


def _place(split: str, index: int) -> Entry:
    if split == "val":
        return "VOC2007", "test", f"{FIRST_TEST_IMAGE + index:06d}"
    # By turns that change with every round of the classes: each year sees each in front.
    if (index + index // len(CLASSES)) % 2 == 0:
        return "VOC2007", "trainval", f"{index:06d}"
    return "VOC2012", "trainval", f"2012_{index:06d}"


def _xml(folder: str, name: str, scene: Scene) -> ElementTree.Element:
    height, width, depth = scene.image.shape
    tree = ElementTree.Element("annotation")
    _fill(tree, {"folder": folder, "filename": f"{name}.jpg"})
    _fill(ElementTree.SubElement(tree, "source"), {"database": "Drawn scenes"})
    _fill(ElementTree.SubElement(tree, "size"), {"width": width, "height": height, "depth": depth})
    _fill(tree, {"segmented": 0})
    for instance in scene.instances:
        # VOC knows no crowds: each member is an object, too difficult to count.
        for one in instance.members or (instance,):
            if one.name in NAMES:
                _add_object(tree, one, difficult=instance.is_crowd)
    return tree


def _add_object(tree: ElementTree.Element, instance: Instance, difficult: bool) -> None:
    x, y, width, height = instance.box
    entry = ElementTree.SubElement(tree, "object")
    _fill(
        entry,
        {
            "name": NAMES[instance.name],
            "pose": "Unspecified",
            "truncated": int(instance.cut > TRUNCATED),
            "occluded": int(instance.hidden > OCCLUDED),
            "difficult": int(difficult),
        },
    )
    # The first pixel is 1, and the last one belongs to the box.
    corners = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
    _fill(ElementTree.SubElement(entry, "bndbox"), corners)


def _fill(element: ElementTree.Element, values: dict[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(element, tag).text = str(value)
