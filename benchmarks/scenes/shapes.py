"""What the classes look like: each is a short recipe of parts, seen from the side, facing right.

Lengths are in units of the recipe's own; the scene scales, stretches, tilts and mirrors the result.
Animals stand in ``animals.py``, people and riders in ``people.py``.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.scenes.animals import QUADRUPEDS, bird, quadruped
from benchmarks.scenes.draw import (
    ACCENT,
    BODY,
    DETAIL,
    EXTRA,
    Part,
    box,
    disc,
    ellipse,
    limb,
    path,
    poly,
    ring,
)


def wheel(x: float, y: float, radius: float) -> list[Part]:
    return [disc(ACCENT, x, y, radius), disc(EXTRA, x, y, 0.5 * radius)]


def row(material: int, x0: float, x1: float, y0: float, y1: float, count: int) -> list[Part]:
    """``count`` upright boxes between x0 and x1 with gaps of a quarter of their pitch."""
    pitch = (x1 - x0) / count
    return [
        box(material, x0 + pitch * (i + 0.12), y0, x0 + pitch * (i + 0.88), y1)
        for i in range(count)
    ]


# Vehicles


def car(rng: np.random.Generator) -> list[Part]:
    back, front = rng.uniform(0.1, 0.6), rng.uniform(1.5, 1.7)  # where the roof's slopes begin
    roof = (back + 0.25, front - 0.35)
    middle = sum(roof) / 2
    windows = (
        (back + 0.14, 0.42, roof[0] + 0.06, 0.08, middle - 0.04, 0.08, middle - 0.04, 0.42),
        (middle + 0.04, 0.42, middle + 0.04, 0.08, roof[1] - 0.05, 0.08, front - 0.13, 0.42),
    )
    return [
        poly(BODY, back, 0.45, roof[0], 0, roof[1], 0, front, 0.45),
        *[poly(DETAIL, *window) for window in windows],
        poly(BODY, 0, 0.48, 0.1, 0.42, front, 0.42, 2.2, 0.52, 2.3, 0.62, 2.3, 0.85, 0, 0.85),
        *wheel(0.5, 0.85, 0.22),
        *wheel(1.8, 0.85, 0.22),
        ellipse(EXTRA, 2.2, 0.6, 0.09, 0.06),
    ]


def bus(rng: np.random.Generator) -> list[Part]:
    return [
        poly(BODY, 0, 0.08, 0.1, 0, 2.65, 0, 2.8, 0.12, 2.8, 1.05, 0, 1.05),
        box(EXTRA, 0, 0.68, 2.8, 0.76),
        *row(DETAIL, 0.08, 2.2, 0.14, 0.55, int(rng.integers(5, 8))),
        box(DETAIL, 2.28, 0.14, 2.5, 0.98),
        poly(DETAIL, 2.6, 0.14, 2.74, 0.18, 2.8, 0.55, 2.6, 0.55),
        *wheel(0.6, 1.05, 0.18),
        *wheel(2.05, 1.05, 0.18),
    ]


def truck(rng: np.random.Generator) -> list[Part]:
    cab = rng.uniform(1.4, 2.1)  # where it begins, behind it the load
    glass = (cab + 0.16, 0.35, cab + 0.4, 0.35, cab + 0.53, 0.62, cab + 0.16, 0.62)
    nose = (cab + 0.45, 0.28, cab + 0.62, 0.62, cab + 0.8, 0.66, cab + 0.8, 1.02)
    load = cab - 0.1
    return [
        box(ACCENT, 0.1, 0.86, cab + 0.75, 1.0),
        box(EXTRA, 0, 0, load, 0.86),
        *[box(DETAIL, load * f, 0.05, load * f + 0.03, 0.81) for f in (0.25, 0.5, 0.75)],
        poly(BODY, cab, 0.28, *nose, cab, 1.02),
        poly(DETAIL, *glass),
        *wheel(0.25, 1.02, 0.17),
        *wheel(0.62, 1.02, 0.17),
        *wheel(cab + 0.4, 1.02, 0.17),
    ]


def train(rng: np.random.Generator) -> list[Part]:
    coach = [
        box(BODY, 0, 0.05, 1.9, 0.75),
        box(EXTRA, 0, 0.5, 1.9, 0.57),
        *row(DETAIL, 0.05, 1.85, 0.14, 0.36, int(rng.integers(7, 11))),
    ]
    engine = [
        poly(BODY, 2.0, 0, 3.1, 0, 3.5, 0.3, 3.75, 0.62, 3.7, 0.78, 2.0, 0.78),
        poly(EXTRA, 2.0, 0.5, 3.66, 0.5, 3.71, 0.57, 2.0, 0.57),
        poly(DETAIL, 3.05, 0.1, 3.17, 0.1, 3.45, 0.34, 3.05, 0.34),
        *row(DETAIL, 2.05, 2.8, 0.14, 0.36, 3),
    ]
    bogies = [disc(ACCENT, x, 0.8, 0.1) for x in (0.2, 0.45, 1.4, 1.65, 2.25, 2.5, 3.1, 3.35)]
    rods = [limb(ACCENT, (x, 0.8), (x + 0.5, 0.8), 0.05) for x in (0.1, 1.3, 2.1, 3.0)]
    return [box(ACCENT, 1.85, 0.6, 2.05, 0.7), *coach, *engine, *bogies, *rods]


def bicycle(rng: np.random.Generator) -> list[Part]:
    """Its saddle is at (0.42, 0.08), its grips at (1.18, 0.05), its pedals around (0.72, 0.75)."""
    crank = rng.uniform(0, np.pi)
    pedal = 0.13 * np.array([np.cos(crank), np.sin(crank)])
    hub, bottom, seat, head = (0.3, 0.7), (0.72, 0.73), (0.46, 0.2), (1.1, 0.22)
    return [
        ring(ACCENT, 0.3, 0.7, 0.32, 0.06),
        ring(ACCENT, 1.3, 0.7, 0.32, 0.06),
        *path(BODY, (hub, bottom, head, seat, bottom), 0.06),
        *path(BODY, (hub, seat, (0.42, 0.1)), 0.05),
        limb(BODY, (1.3, 0.7), (1.06, 0.08), 0.05),
        *path(EXTRA, ((1.0, 0.05), (1.2, 0.05), (1.22, 0.14)), 0.05),
        limb(EXTRA, (0.3, 0.08), (0.54, 0.08), 0.08, 0.05),
        disc(DETAIL, 0.72, 0.73, 0.07),
        limb(EXTRA, np.add(bottom, pedal), np.subtract(bottom, pedal), 0.04),
    ]


def motorcycle(rng: np.random.Generator) -> list[Part]:
    """Its seat is at (0.6, 0.22), its grips at (1.2, 0.02), its foot rests at (0.85, 0.75)."""
    wheels = [
        part for x in (0.32, 1.55) for part in (disc(ACCENT, x, 0.68, 0.32), *wheel(x, 0.68, 0.2))
    ]
    screen = rng.uniform(0.0, 0.14)
    return [
        *wheels,
        disc(EXTRA, 0.32, 0.68, 0.1),
        limb(DETAIL, (1.55, 0.68), (1.24, 0.06), 0.08),
        poly(DETAIL, 0.6, 0.42, 1.2, 0.42, 1.08, 0.85, 0.7, 0.85),
        limb(EXTRA, (0.1, 0.82), (0.9, 0.8), 0.1, 0.07),
        poly(BODY, 0.05, 0.24, 0.5, 0.3, 0.82, 0.2, 1.1, 0.1, 1.32, 0.25, 1.2, 0.5, 0.55, 0.5),
        limb(ACCENT, (0.3, 0.25), (0.8, 0.24), 0.12),
        poly(BODY, 1.2, 0.08, 1.3 + screen, 0.0 - screen, 1.42, 0.22, 1.28, 0.34),
        limb(ACCENT, (1.12, 0.0), (1.3, 0.06), 0.06),
        disc(EXTRA, 1.4, 0.18, 0.08),
    ]


def airplane(rng: np.random.Generator) -> list[Part]:
    sweep = rng.uniform(0.2, 0.5)
    return [
        poly(ACCENT, 1.5, 0.45, 1.85, 0.45, 1.4 - sweep, -0.15, 1.2 - sweep, -0.15),
        limb(BODY, (0.15, 0.42), (2.6, 0.5), 0.2, 0.36),
        poly(BODY, 0.1, 0.4, 0.5, 0.36, 0.2, -0.15, -0.05, -0.15),
        poly(ACCENT, 0.1, 0.46, 0.45, 0.46, 0.05, 0.68, -0.12, 0.68),
        *[disc(DETAIL, x, 0.42, 0.035) for x in np.linspace(0.75, 2.25, 9)],
        poly(DETAIL, 2.5, 0.38, 2.66, 0.4, 2.72, 0.48, 2.5, 0.47),
        poly(ACCENT, 1.3, 0.58, 1.9, 0.58, 1.2 - sweep, 1.15, 0.95 - sweep, 1.15),
        limb(EXTRA, (1.35, 0.82), (1.6, 0.82), 0.15),
    ]


def boat(rng: np.random.Generator) -> list[Part]:
    mast = rng.uniform(0.75, 1.0)
    return [
        limb(ACCENT, (mast, 1.35), (mast, -0.05), 0.05),
        poly(DETAIL, mast + 0.06, 0.0, mast + 0.06, 1.1, mast + 0.75, 1.1),
        poly(EXTRA, mast - 0.07, 0.25, mast - 0.07, 1.1, mast - 0.6, 1.1),
        poly(BODY, 0, 1.25, 2.0, 1.2, 1.65, 1.65, 0.25, 1.65),
        poly(ACCENT, 0, 1.25, 2.0, 1.2, 1.96, 1.28, 0.03, 1.33),
    ]


# Things in a room


def bottle(rng: np.random.Generator) -> list[Part]:
    width, shoulder = rng.uniform(0.17, 0.24), rng.uniform(0.55, 0.85)
    neck = 0.08
    return [
        poly(BODY, -neck, 0.12, neck, 0.12, neck, shoulder - 0.2, width, shoulder, width, 1.6,
             width - 0.04, 1.65, 0.04 - width, 1.65, -width, 1.6, -width, shoulder,
             -neck, shoulder - 0.2),
        box(ACCENT, -0.1, 0, 0.1, 0.14),
        box(DETAIL, -width, shoulder + 0.15, width, shoulder + 0.6),
        box(EXTRA, -0.6 * width, shoulder + 0.27, 0.6 * width, shoulder + 0.46),
    ]  # fmt: skip


def chair(rng: np.random.Generator) -> list[Part]:
    slats = rng.integers(2, 5)
    return [
        *[limb(BODY, (x, 1.05), (x - 0.02, 1.62), 0.08) for x in (0.22, 0.82)],
        *[limb(BODY, (0.07, y), (0.12, y + 0.75), 0.09) for y in (0.0, 0.9)],
        limb(BODY, (0.62, 0.0), (0.66, 0.95), 0.09),
        *[limb(BODY, (0.08, y), (0.63, y), 0.11) for y in np.linspace(0.06, 0.62, slats)],
        limb(BODY, (0.95, 1.0), (1.0, 1.8), 0.09),
        limb(BODY, (0.1, 0.95), (0.1, 1.85), 0.09),
        poly(ACCENT, 0.02, 0.9, 0.7, 0.88, 1.05, 1.02, 0.12, 1.06),
        limb(BODY, (0.1, 1.06), (1.0, 1.04), 0.08),
    ]


def couch(rng: np.random.Generator) -> list[Part]:
    cushions = int(rng.integers(2, 4))
    seat = [
        part
        for x in np.linspace(0.3, 2.3, cushions, endpoint=False)
        for part in (
            box(BODY, x, 0.08, x + 2 / cushions - 0.03, 0.62),
            box(ACCENT, x, 0.55, x + 2 / cushions - 0.03, 0.76),
        )
    ]
    return [
        box(EXTRA, 0.15, 0.95, 0.27, 1.12),
        box(EXTRA, 2.33, 0.95, 2.45, 1.12),
        poly(BODY, 0.2, 0.05, 0.3, 0, 2.3, 0, 2.4, 0.05, 2.4, 1.0, 0.2, 1.0),
        *seat,
        box(BODY, 0.1, 0.76, 2.5, 1.0),
        limb(BODY, (0.15, 0.5), (0.15, 0.88), 0.3),
        limb(BODY, (2.45, 0.5), (2.45, 0.88), 0.3),
        disc(DETAIL, 0.15, 0.5, 0.09),
        disc(DETAIL, 2.45, 0.5, 0.09),
    ]


def dining_table(rng: np.random.Generator) -> list[Part]:
    slant, depth = rng.uniform(0.2, 0.45), rng.uniform(0.3, 0.5)
    dishes = [
        ellipse(EXTRA, x, depth / 2, 0.16, 0.06) for x in np.linspace(0.7, 1.7, rng.integers(0, 4))
    ]
    return [
        box(ACCENT, slant + 0.12, depth, slant + 0.22, 0.95),
        box(ACCENT, 2.18 - slant, depth, 2.28 - slant, 0.95),
        poly(BODY, slant, 0, 2.4 - slant, 0, 2.4, depth, 0, depth),
        box(DETAIL, 0, depth, 2.4, depth + 0.1),
        box(ACCENT, 0.08, depth + 0.1, 0.22, 1.25),
        box(ACCENT, 2.18, depth + 0.1, 2.32, 1.25),
        *dishes,
    ]


def potted_plant(rng: np.random.Generator) -> list[Part]:
    stem = np.array([0.5, 1.0])
    parts = []
    for tilt in np.linspace(-75, 75, int(rng.integers(6, 10))) + rng.uniform(-6, 6):
        angle, reach = np.radians(tilt), rng.uniform(0.6, 0.95)
        toward = np.array([np.sin(angle), -np.cos(angle)])
        parts += [
            limb(DETAIL, stem, stem + 0.4 * toward, 0.04),
            ellipse(BODY, *(stem + reach * toward), 0.32, 0.1, tilt - 90),
        ]
    return [
        *parts,
        poly(ACCENT, 0.15, 1.05, 0.85, 1.05, 0.72, 1.6, 0.28, 1.6),
        box(EXTRA, 0.1, 0.95, 0.9, 1.1),
    ]


def tv(rng: np.random.Generator) -> list[Part]:
    margin = rng.uniform(0.06, 0.12)
    return [
        limb(ACCENT, (0.8, 0.9), (0.8, 1.12), 0.16),
        ellipse(ACCENT, 0.8, 1.14, 0.42, 0.07),
        box(BODY, 0, 0, 1.6, 0.98),
        box(DETAIL, margin, margin, 1.6 - margin, 0.94 - margin),
        poly(EXTRA, 0.25, 0.15, 0.55, 0.15, 0.3, 0.6, 0.15, 0.6),
        disc(EXTRA, 1.5, 0.94, 0.03),
    ]


# COCO's names. With person and rider these cover VOC's 20 classes and the 8 of Cityscapes.
RECIPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "airplane": airplane,
    "bicycle": bicycle,
    "bird": bird,
    "boat": boat,
    "bottle": bottle,
    "bus": bus,
    "car": car,
    "chair": chair,
    "couch": couch,
    "dining table": dining_table,
    "motorcycle": motorcycle,
    "potted plant": potted_plant,
    "train": train,
    "truck": truck,
    "tv": tv,
    **{name: partial(quadruped, animal) for name, animal in QUADRUPEDS.items()},
}
