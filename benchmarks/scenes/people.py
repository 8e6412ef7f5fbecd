"""People: a skeleton of 17 joints, posed at random, and the body that is drawn around it.

Lengths are in heads. Joints are COCO's keypoints, in COCO's order; left and right are the person's.
"""

from dataclasses import replace

import numpy as np

from benchmarks.scenes.draw import (
    ACCENT,
    BODY,
    DETAIL,
    EXTRA,
    Bone,
    Figure,
    Part,
    disc,
    ellipse,
    limb,
    poly,
    vec,
)
from benchmarks.scenes.shapes import RECIPES
from benchmarks.scenes.surface import BACK, FRONT, RIGHT

_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
KEYPOINTS = ["nose"] + [f"{side}_{joint}" for joint in _SIDED for side in ("left", "right")]
# A mirrored picture swaps left and right: its joint i is joint MIRRORED[i] of the original.
MIRRORED = [0] + [i + 1 if i % 2 else i - 1 for i in range(1, 17)]

TORSO, UPPER_ARM, FOREARM, THIGH, SHIN = 2.6, 1.45, 1.3, 1.95, 1.85  # heads
SHOULDER, HIP = 0.85, 0.45  # half the width, seen from the front
# Where a rider sits, holds on and puts the feet, in the mount's units; the size of a head there;
# the forward lean in degrees; how far the pedals reach.
MOUNTS = {
    "bicycle": ((0.42, 0.08), (1.18, 0.05), (0.72, 0.75), 0.22, (30, 48), 0.13),
    "motorcycle": ((0.55, 0.24), (1.2, 0.02), (0.85, 0.78), 0.22, (8, 30), 0.0),
}


def standing(rng: np.random.Generator) -> Figure:
    """A person seen from the front or from behind: arms and legs at random angles, some seated."""
    lean = np.radians(rng.normal(0, 6))
    up, across = np.array([np.sin(lean), -np.cos(lean)]), np.array([np.cos(lean), np.sin(lean)])
    from_front = rng.random() < 0.6
    seated = rng.random() < 0.15
    left_is_at = 1 if from_front else -1  # in the image, the left hand of who faces us is right
    joints = {}
    for side, sign in (("left", left_is_at), ("right", -left_is_at)):
        raised = rng.random() < 0.2
        arm = rng.uniform(90, 165) if raised else rng.uniform(4, 55)
        forearm = arm + rng.uniform(-70, 60)
        thigh = rng.uniform(10, 35) if seated else rng.uniform(-5, 24)
        shin = thigh - rng.uniform(0, 30)
        shoulder = TORSO * up + sign * SHOULDER * across
        elbow = shoulder + UPPER_ARM * _down(sign * arm)
        hip = sign * HIP * across
        knee = hip + THIGH * (0.45 if seated else 1) * _down(sign * thigh)
        joints[f"{side}_shoulder"], joints[f"{side}_hip"] = shoulder, hip
        joints[f"{side}_elbow"], joints[f"{side}_knee"] = elbow, knee
        joints[f"{side}_wrist"] = elbow + FOREARM * _down(sign * forearm)
        joints[f"{side}_ankle"] = knee + SHIN * _down(sign * shin)
        head = (TORSO + 1.0) * up
        joints[f"{side}_eye"] = head + sign * 0.18 * across + 0.08 * up
        joints[f"{side}_ear"] = head + sign * 0.44 * across
    joints["nose"] = head - 0.08 * up
    return _figure(rng, "person", joints, head, up, FRONT if from_front else BACK)


def riding(rng: np.random.Generator) -> list[Figure]:
    """A rider, seen from the right, and the bicycle or motorcycle below, both in its units."""
    mount = rng.choice(list(MOUNTS))
    seat, grip, rest, unit, lean, reach = MOUNTS[mount]
    lean = np.radians(rng.uniform(*lean))
    up = np.array([np.sin(lean), -np.cos(lean)])
    hip = np.array(seat) / unit
    shoulder, head = hip + TORSO * up, hip + (TORSO + 0.95) * up + vec(0.15, 0)
    crank = rng.uniform(0, 2 * np.pi)
    joints = {"nose": head + vec(0.42, 0.05)}
    for side, sign in (("left", 1), ("right", -1)):
        foot = (np.array(rest) + sign * reach * np.array([np.cos(crank), np.sin(crank)])) / unit
        knee, ankle = _two_bones(hip, foot - vec(0, 0.15), THIGH, SHIN, bend=1)
        elbow, wrist = _two_bones(shoulder, np.array(grip) / unit, UPPER_ARM, FOREARM, bend=-1)
        joints[f"{side}_shoulder"], joints[f"{side}_hip"] = shoulder + vec(0.1 * sign, 0), hip
        joints[f"{side}_elbow"], joints[f"{side}_wrist"] = elbow, wrist
        joints[f"{side}_knee"], joints[f"{side}_ankle"] = knee, ankle
        joints[f"{side}_eye"], joints[f"{side}_ear"] = head + vec(0.28, -0.1), head - vec(0.05, 0)
    rider = _figure(rng, "rider", joints, head, up, RIGHT)
    scaled = [_scaled(part, unit) for part in rider.parts]
    return [
        Figure("rider", scaled, rider.joints * unit, rider.view),
        Figure(mount, RECIPES[mount](rng)),
    ]


def _figure(
    rng: np.random.Generator,
    name: str,
    joints: dict[str, np.ndarray],
    head: np.ndarray,
    up: np.ndarray,
    view: float,
) -> Figure:
    """The body around the joints: shirt, trousers or shorts or a skirt, skin, hair and shoes."""
    sleeves, trousers, skirt = rng.random(3) < (0.5, 0.6, 0.2)
    legs, arms = [], []
    for side in ("left", "right"):
        shoulder, elbow, wrist, hip, knee, ankle = (
            joints[f"{side}_{joint}"]
            for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
        )
        outward = 0.35 * np.sign(ankle[0] - head[0])
        toe = ankle + (vec(0.45, 0.12) if name == "rider" else vec(outward, 0.18))
        palm = 0.2 * (wrist - elbow) / np.linalg.norm(wrist - elbow)
        hand = Bone(f"{side}_hand", wrist - palm, wrist + palm, 0.2, 0.2)
        legs += [
            _limb(DETAIL, f"{side}_foot", ankle, toe, 0.4, 0.3),
            _limb(ACCENT if trousers else EXTRA, f"{side}_lower_leg", knee, ankle, 0.55, 0.38),
            _limb(ACCENT, f"{side}_upper_leg", hip, knee, 0.8, 0.58),
        ]
        arms += [
            _limb(BODY, f"{side}_upper_arm", shoulder, elbow, 0.55, 0.45),
            _limb(BODY if sleeves else EXTRA, f"{side}_lower_arm", elbow, wrist, 0.42, 0.32),
            replace(disc(EXTRA, *wrist, 0.2), bones=(hand,)),
        ]
    shoulders = (joints["left_shoulder"] + joints["right_shoulder"]) / 2
    hips = (joints["left_hip"] + joints["right_hip"]) / 2
    corners = [joints[f"{s}_shoulder"] for s in ("left", "right")]
    corners += [joints[f"{s}_hip"] + 0.6 * (joints[f"{s}_hip"] - hips) for s in ("right", "left")]
    if skirt and name == "person":
        hem = [
            joints[f"{s}_knee"] + 0.5 * (joints[f"{s}_knee"] - hips) * (1, 0)
            for s in ("right", "left")
        ]
        thighs = (legs[2].bones[0], legs[5].bones[0])
        outline = poly(ACCENT, *corners[3], *corners[2], *hem[0], *hem[1])
        legs.append(replace(outline, bones=thighs))
    trunk = [limb(BODY, shoulders - 0.25 * up, hips, 1.0), poly(BODY, *np.concatenate(corners))]
    skull = [ellipse(DETAIL, *(head + 0.1 * up), 0.5, 0.58)]
    if view == RIGHT:
        skull += [ellipse(EXTRA, *(head - 0.2 * up + vec(0.14, 0)), 0.4, 0.4)]
    elif view == FRONT:
        skull += [
            ellipse(EXTRA, *(head - 0.12 * up), 0.42, 0.5),
            *[disc(DETAIL, *joints[f"{side}_eye"], 0.08) for side in ("left", "right")],
            ellipse(DETAIL, *(head - 0.36 * up), 0.15, 0.05),
        ]
    waist, breadth = (0.5, 0.5) if view == RIGHT else (1.6 * HIP, SHOULDER)
    torso = Bone("torso", shoulders, hips, breadth, waist)
    crown = Bone("head", head + 0.68 * up, shoulders, 0.5, 0.5)  # the neck belongs to the head
    parts = [
        *legs,
        replace(limb(EXTRA, shoulders, head, 0.4), bones=(crown,)),
        *[replace(part, bones=(torso,)) for part in trunk],
        *arms,
        *[replace(part, bones=(crown,)) for part in skull],
    ]
    return Figure(name, parts, np.stack([joints[name] for name in KEYPOINTS]), view)


def _limb(material: int, name: str, start, end, width: float, end_width: float) -> Part:
    """A ``limb`` that knows which part of the body it is."""
    bone = Bone(name, start, end, width / 2, end_width / 2)
    return replace(limb(material, start, end, width, end_width), bones=(bone,))


def _scaled(part: Part, unit: float) -> Part:
    """The part in a unit of length of which ``unit`` are a head."""
    bones = [
        Bone(b.part, b.start * unit, b.end * unit, b.width * unit, b.end_width * unit)
        for b in part.bones
    ]
    return Part(part.material, tuple(o * unit for o in part.outlines), tuple(bones))


def _down(degrees: float) -> np.ndarray:
    """The direction that is turned by this much from straight down, towards larger x."""
    return np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])


def _two_bones(
    start: np.ndarray, end: np.ndarray, first: float, second: float, bend: int
) -> tuple[np.ndarray, np.ndarray]:
    """Middle and end joint of two bones from ``start`` to ``end``, or as near as they reach."""
    span = end - start
    distance = np.clip(np.linalg.norm(span), abs(first - second) + 0.01, first + second - 0.01)
    along = span / np.linalg.norm(span)
    share = (distance**2 + first**2 - second**2) / (2 * distance)
    height = np.sqrt(max(first**2 - share**2, 0))
    middle = start + share * along + bend * height * np.array([along[1], -along[0]])
    return middle, start + distance * along
