"""Keypoints of COCO-like files: whether a network can learn them, and what mirroring exchanges."""

import re
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.data import Metadata

from transfer.data.layout import DataError
from transfer.data.masks import are_numbers
from transfer.data.reading import Labels, where

# left and right anywhere, as in lefteye; l and r as a word, as in l_eye, EyeR, rEye and RAnkle
SIDE = re.compile(
    "[Ll]eft|LEFT|[Rr]ight|RIGHT|(?<![A-Za-z])[LlRr](?![A-Za-z])|(?<=[a-z])[LR](?![A-Za-z])"
    "|(?<![A-Za-z])[lr](?=[A-Z])|(?<![A-Za-z])[LR](?=[A-Z][a-z])"
)
OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def keypoints_of(labels: Labels, metadata: Metadata) -> tuple[str, ...]:
    """The keypoints' names, in the metadata, too; () where the file has none.

    Every object must have as many (x, y, visibility). Raises DataError for whatever a network could
    not learn them with.
    """
    file, content = labels.file, labels.content
    named = [c["keypoints"] for c in content["categories"] if c.get("keypoints")]
    if not named:
        return ()
    if len(named) > 1 or len(content["categories"]) > 1:
        raise DataError(f"{file}: keypoints need one category, that of what has them")
    names = named[0]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: the keypoints {reprlib.repr(names)} are no list of names")
    if len(set(names)) < len(names):
        raise DataError(f"{file}: two keypoints have one name ({', '.join(names)}); rename one")
    for number, annotation in enumerate(content["annotations"]):
        if fault := _fault(annotation, len(names)):
            raise DataError(f"{where(file, number, annotation)} {fault}")
    if not any(a["num_keypoints"] for a in content["annotations"] if not a.get("iscrowd")):
        raise DataError(f"{file}: no object has a labelled keypoint")
    names = tuple(names)
    if metadata.get("keypoint_flip_map") is None:
        metadata.set(keypoint_flip_map=flip_map(file, names))
    if metadata.get("keypoint_names") is None:
        metadata.set(keypoint_names=names)
    if names != tuple(metadata.keypoint_names):
        found, wanted = ", ".join(names), ", ".join(metadata.keypoint_names)
        raise DataError(f"{file}: its keypoints are {found}, the task's are {wanted}")
    if unknown := {name for pair in metadata.keypoint_flip_map for name in pair} - set(names):
        raise DataError(f"{file}: FLIP_MAP has {min(unknown)}, which is none of its keypoints")
    return names


def _fault(annotation: dict[str, Any], count: int) -> str:
    """What is wrong with an annotation's keypoints, or nothing; it gets ``num_keypoints``."""
    points = annotation.get("keypoints") or []
    if not are_numbers(points):
        return f"has the keypoints {reprlib.repr(points)}: not all are numbers"
    if len(points) != 3 * count:
        return f"has {len(points)} keypoint numbers, not {count} x 3"
    if not {*points[2::3]} <= {0, 1, 2}:
        return f"has the visibilities {reprlib.repr(points[2::3])}: not all are 0, 1 or 2"
    labelled = count - points[2::3].count(0)
    if annotation.setdefault("num_keypoints", labelled) != labelled:
        said = reprlib.repr(annotation["num_keypoints"])
        return f"has num_keypoints {said}, but {labelled} keypoints with a visibility above 0"
    return ""


def flip_map(file: Path, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """What changes places in a mirrored image: pairs of left and right, by their names.

    Raises DataError, which asks for a map, where a name has a side and there is no other.
    """
    pairs = []
    for name in names:
        other = SIDE.sub(_other_side, name)
        if other == name:  # leye and reye, where both are there
            swapped = re.sub("^[LlRr]", _other_side, name)
            other = swapped if swapped in names else name
        elif other not in names:
            raise DataError(
                f"{file}: there is a keypoint {name}, but no {other}. Say what changes places in a "
                "mirrored image: FLIP_MAP: [[one, other], ...] beside JSON and IMAGES in "
                "TRANSFER.DATASETS"
            )
        if other != name and (other, name) not in pairs:
            pairs.append((name, other))
    return tuple(pairs)


def _other_side(found: re.Match) -> str:
    """The other side, in the capitals of the one that was found."""
    side = found[0]
    other = OTHER[side.lower()]
    if side.isupper():
        return other.upper()
    return other.capitalize() if side.istitle() else other
