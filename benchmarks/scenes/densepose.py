"""DensePose-COCO 2014's layout: densepose_*2014.json, and a small surface with its flip table.

The images are those of the instances, below the names of 2014. A fifth of the training images makes
valminusminival, the validation images are minival. As in the original not every person has the
DensePose keys; a set of few images may have none at all who has.
"""

from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils

from benchmarks.scenes import coco, surface
from benchmarks.scenes.scene import Instance, Scene

PERSON = {"supercategory": "person", "id": coco.CATEGORY_IDS["person"], "name": "person"}
BOX = 256  # side of a person's box in the scale of dp_x, dp_y and dp_masks
ANNOTATED = 0.8  # share of the people who are large enough
MIN_SIDE = 12  # px, of such a person's box
PIXELS_PER_POINT, MIN_POINTS, MAX_POINTS = 10, 10, 100
VAL_OF_TRAIN = 5  # one of so many training images is in valminusminival
SMALL_MINIVAL = 100  # images
_EDGE = 1e-3  # of a chart: at its very end the next one begins


def add(root: Path, split: str, index: int, scene: Scene) -> dict:
    """Link one image, which ``coco`` has written; returns its entries for its set's JSON."""
    name = "minival" if split == "val" else "train"
    if split == "train" and index % VAL_OF_TRAIN == VAL_OF_TRAIN - 1:
        name = "valminusminival"
    folder = "train2014" if name == "train" else "val2014"
    image = coco.image_entry(split, index, scene)
    image["file_name"] = f"COCO_{folder}_{image['file_name']}"
    picture = root / "coco" / folder / image["file_name"]
    coco.link(root, split, index, picture)
    annotations = []
    for number, instance in enumerate(scene.instances):
        if coco.CATEGORY_IDS[instance.name] == PERSON["id"]:
            label = coco.annotation(instance, image, number)
            annotations.append(label | densepose(instance, np.random.default_rng(label["id"])))
    return {"set": name, "image": image, "annotations": annotations}


def finish(root: Path, entries: dict[str, list[dict]]) -> None:
    """Write the four JSON files, which list images without people, too, and the surface."""
    images = [entry for split in entries.values() for entry in split]
    sets = {
        name: [entry for entry in images if entry["set"] == name]
        for name in ("train", "valminusminival", "minival")
    }
    files = {f"densepose_{name}2014.json": own for name, own in sets.items()}
    files["densepose_minival2014_100.json"] = sets["minival"][:SMALL_MINIVAL]
    for name, own in files.items():
        path = root / "coco" / "annotations" / name
        coco.write_labels(path, own, [PERSON], "DensePose-COCO 2014")
    surface.write(root / "densepose")


def densepose(person: Instance, rng: np.random.Generator) -> dict:
    """The keys ``dp_*`` of a person; none for a crowd, a small one, and some others.

    The points are centres of visible pixels, drawn at random.
    """
    x, y, width, height = person.box
    if person.is_crowd or min(width, height) < MIN_SIDE or rng.random() > ANNOTATED:
        return {}
    charts, u, v = dense_maps(person)
    rows, columns = np.nonzero(charts)
    count = np.clip(len(rows) // PIXELS_PER_POINT, MIN_POINTS, MAX_POINTS)
    chosen = rng.choice(len(rows), count, replace=False)
    rows, columns = rows[chosen], columns[chosen]
    return {
        "dp_x": ((columns + 0.5 - x) * BOX / width).round(3).tolist(),
        "dp_y": ((rows + 0.5 - y) * BOX / height).round(3).tolist(),
        "dp_I": charts[rows, columns].astype(float).tolist(),
        "dp_U": u[rows, columns].round(5).tolist(),
        "dp_V": v[rows, columns].round(5).tolist(),
        "dp_masks": _masks(charts[y : y + height, x : x + width]),
    }


def dense_maps(person: Instance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The charts of a person's visible pixels, (h, w) uint8, and U, V, float64; elsewhere 0."""
    drawn = person.drawn
    charts = np.zeros(person.mask.shape, dtype=np.uint8)
    u, v = np.zeros(charts.shape), np.zeros(charts.shape)
    into_figure = np.linalg.inv(drawn.matrix).T
    is_mirrored = np.linalg.det(drawn.matrix) < 0
    for number in np.unique(drawn.shown[person.mask]):
        rows, columns = np.nonzero(drawn.shown == number)
        points = (np.stack([columns, rows], axis=1) - drawn.offset) @ into_figure
        bones = drawn.figure.parts[number - 1].bones
        located = [bone.locate(points) for bone in bones]
        nearest = np.argmin([np.abs(across) for _, across in located], axis=0)
        for i, (bone, (along, across)) in enumerate(zip(bones, located, strict=True)):
            own = nearest == i
            seen = np.clip((1 + across[own]) / 2, _EDGE, 1 - _EDGE)
            found = surface.chart_at(bone.part, along[own], drawn.figure.view + seen)
            where = rows[own], columns[own]
            charts[where], u[where], v[where] = surface.mirror(*found) if is_mirrored else found
    return charts, u, v


def _masks(charts: np.ndarray) -> list[dict | list]:
    """The run lengths of each coarse part that a box shows, enlarged to BOX x BOX."""
    rows, columns = ((np.arange(BOX) + 0.5) * side / BOX for side in charts.shape)
    grid = surface.COARSE[charts][np.ix_(rows.astype(int), columns.astype(int))]
    masks = []
    for part in range(1, len(surface.CHARTS) + 1):
        shown = np.asfortranarray(grid == part, dtype=np.uint8)
        lengths = mask_utils.encode(shown)
        masks.append(lengths | {"counts": lengths["counts"].decode()} if shown.any() else [])
    return masks
