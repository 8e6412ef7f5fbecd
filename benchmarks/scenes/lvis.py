"""LVIS v1's layout: 1203 categories, of which each image is searched for a few only.

As in the original, images are COCO's, the validation set has images of both COCO splits, and the
rarer a category, the fewer images were searched for it: there, and only there, it is labelled.
"""

import ast
import importlib.util
from collections import Counter
from pathlib import Path

from benchmarks.scenes import coco
from benchmarks.scenes.scene import CLASSES, Instance, Scene

# LVIS's name for each of our classes.
NAMES = {name: name for name in CLASSES} | {
    "bus": "bus_(vehicle)",
    "car": "car_(automobile)",
    "couch": "sofa",
    "dining table": "dining_table",
    "potted plant": "flowerpot",
    "rider": "person",
    "train": "train_(railroad_vehicle)",
    "tv": "television_set",
}
# Of every so many images one is searched for a category that is frequent, rare or common; an image
# is always searched for what stands in front.
SEARCHED = {"f": 1, "r": 8, "c": 3}
FREQUENCIES = {
    name: list(SEARCHED)[number % len(SEARCHED)] for number, name in enumerate(CLASSES)
} | {"rider": "f", "person": "f"}
VAL_OF_TRAIN = 10  # one of so many of COCO's training images is in LVIS's validation set
LABELLED_OF_CROWD = 3
URL = "http://images.cocodataset.org"


def add(root: Path, split: str, index: int, scene: Scene) -> dict:
    """The entries of one image for its set's JSON; it writes nothing."""
    image = coco.image_entry(split, index, scene)
    searched = {name for name in CLASSES if _is_searched(name, index)} | {scene.instances[0].name}
    labelled = [
        one
        for instance in scene.instances
        if instance.name in searched
        for one in instance.members[:LABELLED_OF_CROWD] or (instance,)
    ]
    present = {NAMES[instance.name] for instance in labelled}
    crowds = {NAMES[one.name] for one in scene.instances if one.is_crowd and one.name in searched}
    del image["file_name"]  # LVIS has this instead:
    image["coco_url"] = f"{URL}/{coco.FOLDERS[split]}/{coco.image_path(split, index).name}"
    image["not_exhaustive_category_ids"] = _ids(crowds)
    image["neg_category_ids"] = _ids({NAMES[name] for name in searched} - present)
    annotations = [_annotation(one, image, number) for number, one in enumerate(labelled)]
    in_val = split == "val" or index % VAL_OF_TRAIN == VAL_OF_TRAIN - 1
    return {"set": "val" if in_val else "train", "image": image, "annotations": annotations}


def finish(root: Path, entries: dict[str, list[dict]]) -> None:
    """Write both JSON files; the counts of the categories are those of the training set."""
    images = [entry for split in entries.values() for entry in split]
    sets = {name: [entry for entry in images if entry["set"] == name] for name in ("train", "val")}
    instances = Counter(a["category_id"] for entry in sets["train"] for a in entry["annotations"])
    shown = Counter(
        category for e in sets["train"] for category in {a["category_id"] for a in e["annotations"]}
    )
    categories = [
        category
        | {
            "frequency": OURS.get(category["name"], category["frequency"]),
            "image_count": shown[category["id"]],
            "instance_count": instances[category["id"]],
        }
        for category in CATEGORIES
    ]
    for name, own in sets.items():
        coco.write_labels(root / "lvis" / f"lvis_v1_{name}.json", own, categories, "LVIS v1")


def _is_searched(name: str, index: int) -> bool:
    return (index + CLASSES.index(name)) % SEARCHED[FREQUENCIES[name]] == 0


def _annotation(instance: Instance, image: dict, number: int) -> dict:
    label = coco.annotation(instance, image, number)
    del label["iscrowd"]
    return label | {"category_id": CATEGORY_IDS[NAMES[instance.name]]}


def _ids(names: set[str]) -> list[int]:
    return sorted(CATEGORY_IDS[name] for name in names)


def _read_categories() -> list[dict]:
    """The official list, from Detectron2's file of it, which is data: nothing is imported."""
    package = importlib.util.find_spec("detectron2")
    if package is None:
        raise ImportError("scenes needs Detectron2's list of LVIS categories: make install")
    folder = Path(package.submodule_search_locations[0], "data", "datasets")
    source = (folder / "lvis_v1_categories.py").read_text()
    assigned = next(node for node in ast.parse(source).body if isinstance(node, ast.Assign))
    return ast.literal_eval(assigned.value)


CATEGORIES = _read_categories()
CATEGORY_IDS = {category["name"]: category["id"] for category in CATEGORIES}
OURS = {NAMES[name]: FREQUENCIES[name] for name in CLASSES}
