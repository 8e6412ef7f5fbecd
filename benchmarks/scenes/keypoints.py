"""COCO 2017's person keypoints: person_keypoints_*.json, on the same images as the instances."""

from pathlib import Path

import numpy as np

from benchmarks.scenes import coco
from benchmarks.scenes.people import KEYPOINTS
from benchmarks.scenes.scene import Instance, Scene

HIDDEN, VISIBLE = 1, 2  # COCO's v; 0 is "not labelled", here: outside the image
PERSON = coco.CATEGORY_IDS["person"]
_BONES = (
    *("left_ankle left_knee", "left_knee left_hip", "right_ankle right_knee"),
    *("right_knee right_hip", "left_hip right_hip", "left_shoulder left_hip"),
    *("right_shoulder right_hip", "left_shoulder right_shoulder", "left_shoulder left_elbow"),
    *("right_shoulder right_elbow", "left_elbow left_wrist", "right_elbow right_wrist"),
    *("left_eye right_eye", "nose left_eye", "nose right_eye", "left_eye left_ear"),
    *("right_eye right_ear", "left_ear left_shoulder", "right_ear right_shoulder"),
)
CATEGORY = {
    "supercategory": "person",
    "id": PERSON,
    "name": "person",
    "keypoints": KEYPOINTS,
    "skeleton": [[KEYPOINTS.index(end) + 1 for end in bone.split()] for bone in _BONES],
}


def add(root: Path, split: str, index: int, scene: Scene) -> dict:
    """The entries of one image for the split's JSON; it writes nothing."""
    image = coco.image_entry(split, index, scene)
    annotations = [
        coco.annotation(instance, image, number) | keypoints(instance)
        for number, instance in enumerate(scene.instances)
        if coco.CATEGORY_IDS[instance.name] == PERSON
    ]
    return {"image": image, "annotations": annotations}


def finish(root: Path, entries: dict[str, list[dict]]) -> None:
    """Write the JSON files of the labelled splits, which list images without people, too."""
    for split, images in entries.items():
        path = root / "coco" / "annotations" / f"person_keypoints_{coco.FOLDERS[split]}.json"
        coco.write_labels(path, images, [CATEGORY], "COCO 2017's person keypoints")


def keypoints(person: Instance) -> dict:
    """``keypoints``: x, y (whole px) and v of each joint, and how many are labelled.

    A joint is visible where the person's own visible pixels are. A crowd has none labelled.
    """
    triples = np.zeros((len(KEYPOINTS), 3), dtype=int)
    if person.joints is not None:
        height, width = person.mask.shape
        pixels = np.floor(person.joints).astype(int)
        inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
        x, y = pixels[inside].T
        triples[inside, :2] = pixels[inside]
        triples[inside, 2] = np.where(person.mask[y, x], VISIBLE, HIDDEN)
    return {
        "keypoints": triples.ravel().tolist(),
        "num_keypoints": int((triples[:, 2] > 0).sum()),
    }
