"""Animals: recipes in the manner of ``shapes.py``; all four-legged ones are one recipe."""

from dataclasses import dataclass

import numpy as np

from benchmarks.scenes.draw import (
    ACCENT,
    BODY,
    DETAIL,
    EXTRA,
    Part,
    disc,
    ellipse,
    limb,
    path,
    poly,
    vec,
)


@dataclass(frozen=True)
class Quadruped:
    """Proportions of a four-legged animal, in units of its body's depth."""

    length: float
    leg: float
    leg_width: float
    neck: tuple[float, float]  # length, degrees above the horizontal
    head: tuple[float, float, float]  # half-axes, degrees that it hangs down
    snout: tuple[float, float]  # how far it protrudes, its width
    ears: str  # "pointed", "hanging" or "sideways"
    tail: tuple[tuple[float, float], ...]  # steps from the rump
    tail_width: float
    fleece: bool = False
    horns: bool = False
    mane: bool = False
    patches: bool = False
    head_material: int = BODY


QUADRUPEDS = {
    "cat": Quadruped(
        1.7, 0.75, 0.3, (0.45, 50), (0.5, 0.46, 0), (0.02, 0.3), "pointed",
        ((-0.5, 0.1), (-0.35, -0.6), (0.1, -0.6), (0.3, -0.2)), 0.2,
    ),
    "dog": Quadruped(
        1.6, 1.0, 0.32, (0.75, 55), (0.42, 0.38, 10), (0.55, 0.32), "hanging",
        ((-0.4, -0.35), (-0.1, -0.45)), 0.2,
    ),
    "horse": Quadruped(
        1.7, 1.6, 0.26, (1.4, 58), (0.55, 0.24, 50), (0.3, 0.3), "pointed",
        ((-0.25, 0.2), (-0.05, 1.3)), 0.3, mane=True,
    ),
    "cow": Quadruped(
        2.0, 0.75, 0.3, (0.5, 20), (0.5, 0.32, 40), (0.2, 0.42), "sideways",
        ((-0.12, 0.4), (0.0, 0.8)), 0.1, horns=True, patches=True,
    ),
    "sheep": Quadruped(
        1.2, 0.6, 0.2, (0.35, 25), (0.42, 0.25, 50), (0.02, 0.2), "sideways",
        ((-0.15, 0.1),), 0.3, fleece=True, head_material=ACCENT,
    ),
}  # fmt: skip


def quadruped(animal: Quadruped, rng: np.random.Generator) -> list[Part]:
    length, head_x, head_y, droop = animal.length, *animal.head
    shoulder, rump = np.array([length, 0.0]), np.zeros(2)
    neck_angle = np.radians(animal.neck[1] + rng.normal(0, 10))
    neck_base = shoulder + vec(0.15, -0.15)
    head = neck_base + animal.neck[0] * np.array([np.cos(neck_angle), -np.sin(neck_angle)])
    droop = np.radians(droop + rng.normal(0, 6))
    forward = np.array([np.cos(droop), np.sin(droop)])
    up = np.array([forward[1], -forward[0]])

    def legs(material: int, shift: float) -> list[Part]:
        parts = []
        for x in (0.0, length):
            swing, bend = rng.normal(0, 0.16, 2)
            hip = np.array([x + shift, 0.25])
            knee = hip + vec(swing, 0.25 + animal.leg / 2)
            foot = knee + vec(bend, animal.leg / 2)
            parts += [
                limb(material, hip, knee, 1.6 * animal.leg_width, animal.leg_width),
                limb(material, knee, foot, animal.leg_width, 0.8 * animal.leg_width),
                limb(EXTRA, foot, foot + vec(0.08, 0.02), animal.leg_width),
            ]
        return parts

    leg_material = animal.head_material
    tail = [rump + vec(-0.4, -0.25)]
    for step in animal.tail:
        tail.append(tail[-1] + step)
    tail_material = ACCENT if animal.mane else BODY
    parts = legs(leg_material, -0.12) + path(tail_material, tail, animal.tail_width)
    if animal.fleece:
        turn = np.linspace(0, 2 * np.pi, 13)[:-1]
        centres = np.stack([0.6 + 0.85 * np.cos(turn), 0.42 * np.sin(turn)], axis=1)
        parts += [disc(BODY, x, y, 0.3) for x, y in centres]
    parts += [limb(BODY, rump, shoulder, 1.05, 1.0)]
    if animal.patches:
        parts += [
            ellipse(DETAIL, x, rng.uniform(-0.2, 0.1), 0.3, 0.22, rng.uniform(0, 180))
            for x in (0.15, 0.95, 1.7)
        ] + [disc(EXTRA, 0.35, 0.5, 0.2)]
    parts += [limb(BODY, neck_base - (0.2, -0.1), head, 0.8, 1.7 * head_y)]
    if animal.mane:
        parts += [limb(ACCENT, neck_base - (0.3, 0.3), head - (0.2, 0.15), 0.3)]
    parts += legs(leg_material, 0.12)

    skin = animal.head_material
    nose = head + (head_x + animal.snout[0]) * forward
    ear = head - 0.35 * head_x * forward + 0.75 * head_y * up
    if animal.ears == "pointed":
        size = 0.9 * head_y
        for foot in (ear, ear + 0.8 * head_x * forward):
            tip = foot + 1.3 * size * up
            parts += [
                poly(skin, *(foot - 0.4 * size * forward), *tip, *(foot + 0.4 * size * forward))
            ]
    if animal.horns:
        for lean in (-0.25, 0.25):
            parts += path(EXTRA, (ear, ear + vec(lean, -0.25), ear + vec(lean + 0.1, -0.5)), 0.12)
    parts += [
        ellipse(skin, *head, head_x, head_y, np.degrees(droop)),
        limb(skin, head + 0.3 * head_x * forward, nose, 1.5 * head_y, animal.snout[1]),
        disc(EXTRA, *(nose + 0.3 * animal.snout[1] * forward), 0.35 * animal.snout[1]),
        disc(EXTRA, *(head + 0.35 * head_x * forward + 0.3 * head_y * up), 0.07),
    ]
    if animal.ears == "hanging":
        parts += [limb(ACCENT, ear, ear - 1.5 * head_y * up - 0.1 * forward, 0.22, 0.3)]
    if animal.ears == "sideways":
        parts += [limb(ACCENT, ear, ear - 0.45 * forward + vec(0, 0.05), 0.1, 0.2)]
    return parts


def bird(rng: np.random.Generator) -> list[Part]:
    legs = [limb(EXTRA, (x, 0.75), (x + 0.05, 1.15), 0.05) for x in (0.6, 0.78)]
    feet = [limb(EXTRA, (x, 1.15), (x + 0.2, 1.17), 0.05) for x in (0.6, 0.78)]
    wing = [poly(ACCENT, 0.25, 0.6, 0.4, 0.42, 0.95, 0.42, 0.85, 0.7)]
    if rng.random() < 0.5:  # in flight
        legs, feet = [], []
        lift = rng.uniform(0.4, 0.8)
        wing = [poly(ACCENT, 0.45, 0.5, 0.1, 0.35 - lift, 0.45, 0.3 - lift, 0.95, 0.48)]
    return [
        *legs,
        *feet,
        poly(ACCENT, 0.3, 0.5, -0.35, 0.55, -0.4, 0.72, 0.3, 0.75),
        poly(EXTRA, 1.3, 0.2, 1.62, 0.3, 1.3, 0.38),
        ellipse(BODY, 0.65, 0.58, 0.52, 0.27, -18),
        disc(BODY, 1.13, 0.28, 0.22),
        *wing,
        disc(EXTRA, 1.2, 0.24, 0.05),
    ]
