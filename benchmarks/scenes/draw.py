"""Parts, textures and rasterising: what every class is drawn with.

A class is a list of parts, later ones on top, in any unit of length: x to the right, y down. The
scene scales the whole list to the size it wants. A part has one of four materials; which colour and
texture a material has is drawn at random per object, so that classes differ by shape alone.
"""

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

BODY, ACCENT, DETAIL, EXTRA = range(4)  # the materials
SUBPIXEL_BITS = 4  # cv2 takes outlines in 1/16 px

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # (20, 2)
_HALF_TURN = np.linspace(np.pi / 2, 3 * np.pi / 2, 6)


@dataclass(frozen=True)
class Bone:
    """The axis of a part of the body, (x, y) each, and half of the part's width at its ends."""

    part: str  # one of surface.CHARTS
    start: np.ndarray  # the end that is up when a person stands with hanging arms
    end: np.ndarray
    width: float
    end_width: float

    def locate(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where ``points`` (n, 2) lie: along it, 0 to 1, and across, -1 to 1 within its width.

        Across runs to the right if the bone hangs down, and turns with it.
        """
        axis, apart = self.end - self.start, points - self.start
        along = np.clip(apart @ axis / (axis @ axis), 0, 1)
        width = self.width + along * (self.end_width - self.width)
        aside = apart @ np.array([axis[1], -axis[0]]) / np.linalg.norm(axis)
        return along, aside / width


@dataclass(frozen=True)
class Part:
    """Closed outlines (N, 2); a point that an even number of them surround is outside the part."""

    material: int
    outlines: tuple[np.ndarray, ...]
    bones: tuple[Bone, ...] = ()  # what a part of a person covers; a point is on the nearest one


@dataclass(frozen=True)
class Figure:
    """An object as it is drawn, before it has a size and a place in the image."""

    name: str
    parts: list[Part]
    joints: np.ndarray | None = None  # people's: (17, 2), in COCO's order (people.KEYPOINTS)
    view: float | None = None  # people's: the side that they show, FRONT, RIGHT or BACK of surface


def vec(x: float, y: float) -> np.ndarray:
    return np.array([x, y], dtype=float)


def poly(material: int, *xy: float) -> Part:
    """A polygon from x0, y0, x1, y1, ..."""
    return Part(material, (np.array(xy, dtype=float).reshape(-1, 2),))


def box(material: int, x0: float, y0: float, x1: float, y1: float) -> Part:
    return poly(material, x0, y0, x1, y0, x1, y1, x0, y1)


def ellipse(material: int, x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> Part:
    """An ellipse with its first half-axis turned by ``tilt`` degrees (clockwise, as y is down)."""
    return Part(material, (_ellipse_outline(x, y, rx, ry, tilt),))


def disc(material: int, x: float, y: float, radius: float) -> Part:
    return ellipse(material, x, y, radius, radius)


def ring(material: int, x: float, y: float, radius: float, width: float) -> Part:
    """A disc with a hole that shows what is behind it."""
    inner = radius - width
    outlines = (_ellipse_outline(x, y, radius, radius), _ellipse_outline(x, y, inner, inner))
    return Part(material, outlines)


def limb(material: int, start, end, width: float, end_width: float | None = None) -> Part:
    """A bar with round ends from ``start`` (x, y) to ``end``, tapering to ``end_width``."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    angle = np.arctan2(end[1] - start[1], end[0] - start[0])
    turn = angle + _HALF_TURN
    cap = np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2
    tail_width = width if end_width is None else end_width
    return Part(material, (np.concatenate([start + width * cap, end - tail_width * cap]),))


def path(material: int, points, width: float) -> list[Part]:
    """Bars through ``points``, (x, y) each."""
    return [limb(material, a, b, width) for a, b in itertools.pairwise(points)]


def bounds(parts: list[Part]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest (x, y) of the parts."""
    points = np.concatenate([outline for part in parts for outline in part.outlines])
    return points.min(axis=0), points.max(axis=0)


def rasterise(
    parts: list[Part], matrix: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, tuple[int, int]]:
    """Which part each pixel shows, and where this patch lies.

    A point p of an outline goes to ``matrix @ p + offset``, in px. Returns the part's position in
    the list plus one, (h, w) uint8 with 0 where there is none, and the patch's left and top, in px;
    the patch may reach over the border of the image.
    """
    outlines = [[o @ matrix.T + offset for o in part.outlines] for part in parts]
    points = np.concatenate([o for part in outlines for o in part])
    left, top = np.floor(points.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + 2
    patch = np.zeros((bottom - top, right - left), dtype=np.uint8)
    for number, part in enumerate(outlines, start=1):
        fixed = [np.rint((o - (left, top)) * 2**SUBPIXEL_BITS).astype(np.int32) for o in part]
        cv2.fillPoly(patch, fixed, number, shift=SUBPIXEL_BITS)
    return patch, (int(left), int(top))


def overlap(
    patch_shape: tuple[int, ...], corner: tuple[int, int], image_shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What a patch at ``corner`` (left, top) and an image share: rows and columns of the image,
    and of the patch; empty slices where they do not meet.
    """
    in_image, in_patch = [], []
    for start, length, limit in zip(corner[::-1], patch_shape[:2], image_shape[:2], strict=True):
        first, last = max(start, 0), max(min(start + length, limit), max(start, 0))
        in_image.append(slice(first, last))
        in_patch.append(slice(first - start, last - start))
    return tuple(in_image), tuple(in_patch)


def texture(
    rng: np.random.Generator, height: int, width: int, look: np.random.Generator
) -> np.ndarray:
    """A random pattern in [0, 1], (height, width) float32: grain, stripes, checks or spots.

    ``look`` draws its kind and period, ``rng`` where it lies.
    """
    kind = look.integers(5)
    period = look.uniform(4, 18)  # px
    if kind <= 1:
        return _grain(rng, height, width, period)
    angle, phase_x, phase_y = rng.uniform(0, 2 * np.pi, 3)
    y, x = np.ogrid[:height, :width]
    step = 2 * np.pi / period
    along = np.sin((step * np.cos(angle)) * x + (step * np.sin(angle)) * y + phase_x)
    if kind == 2:
        return _soft_step(along)
    across = np.sin((-step * np.sin(angle)) * x + (step * np.cos(angle)) * y + phase_y)
    return _soft_step(along * across if kind == 3 else along + across - 0.8)


def colour(rng: np.random.Generator, lightness: float) -> np.ndarray:
    """A random RGB colour (3,) float32 whose channels average about ``lightness`` (0 to 255)."""
    tint = rng.normal(size=3)
    tint = (tint - tint.mean()) / np.linalg.norm(tint)
    return np.clip(lightness + rng.uniform(10, 90) * tint, 5, 250).astype(np.float32)


def fill(rng: np.random.Generator, height: int, width: int, lightness: float) -> np.ndarray:
    """A textured surface in two colours, RGB (height, width, 3) float32."""
    first = colour(rng, lightness)
    second = first + rng.normal(0, 28, 3).astype(np.float32)
    return first + texture(rng, height, width, rng)[..., None] * (second - first)


def paint(
    rng: np.random.Generator, parts: list[Part], patch: np.ndarray, look: np.random.Generator
) -> np.ndarray:
    """Colours for a rasterised object, RGB (h, w, 3) float32: texture, shading, outlined parts.

    ``look`` draws colours and pattern: ``rng`` itself, or what is the same for every such object.
    """
    height, width = patch.shape
    # The materials of one object differ in lightness, in an order that says nothing of the class.
    ladder = look.permutation([50.0, 100.0, 150.0, 205.0]) + look.uniform(-20, 20, 4)
    palette = np.stack([colour(look, lightness) for lightness in ladder])
    second = np.stack([colour(look, lightness + look.normal(0, 25)) for lightness in ladder])
    textured = look.random(4) < (0.9, 0.5, 0.3, 0.3)
    second = np.where(textured[:, None], second, palette)
    material = np.array([BODY] + [part.material for part in parts])[patch]
    mix = texture(rng, height, width, look)[..., None]
    colours = palette[material] + mix * (second - palette)[material]

    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    colours *= (1 + strength * (np.cos(angle) * x + np.sin(angle) * y))[..., None]
    if min(height, width) > 24:  # on smaller ones the lines would be all that is left
        edge = np.zeros(patch.shape, dtype=bool)
        edge[1:] |= patch[1:] != patch[:-1]
        edge[:, 1:] |= patch[:, 1:] != patch[:, :-1]
        colours[edge] *= rng.uniform(0.45, 0.8)
    return colours


def background(rng: np.random.Generator, height: int, width: int, clutter: bool) -> np.ndarray:
    """Two textured surfaces that meet at a line, and, as clutter, shapeless patches and bands."""
    canvas = fill(rng, height, width, rng.uniform(50, 205))
    if rng.random() < 0.75:
        left, right = rng.uniform(0.2, 0.8) + rng.uniform(-0.15, 0.15, 2)
        ground = poly(0, 0, left * height, width, right * height, width, height, 0, height)
        _cover(rng, canvas, ground)
    if not clutter:
        return canvas
    for _ in range(rng.integers(3, 9)):
        _cover(rng, canvas, _blob(rng, height, width))
    for _ in range(rng.integers(0, 3)):  # from border to border, as poles, roads and beams are
        (x0, x1), (y0, y1) = rng.uniform(-0.2, 1.2, 2) * width, (-0.3 * height, 1.3 * height)
        if rng.random() < 0.5:
            (x0, x1), (y0, y1) = (-0.3 * width, 1.3 * width), rng.uniform(-0.2, 1.2, 2) * height
        _cover(rng, canvas, limb(0, (x0, y0), (x1, y1), rng.uniform(0.02, 0.12) * height))
    return canvas


def expose(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """The picture a camera takes of it: uneven coloured light, blur, gain, noise; uint8."""
    height, width = canvas.shape[:2]
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.4)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1 + strength * (np.cos(angle) * x + np.sin(angle) * y)
    canvas = canvas * (light[..., None] * rng.normal(1, 0.06, 3)).astype(np.float32)
    canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.3, 0.8))
    canvas = (canvas - 127) * np.float32(rng.uniform(0.7, 1.1)) + np.float32(rng.normal(127, 12))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    canvas += np.float32(rng.uniform(1, 7)) * noise
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _ellipse_outline(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> np.ndarray:
    cosine, sine = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
    axes = np.array([[rx * cosine, rx * sine], [-ry * sine, ry * cosine]])
    return _CIRCLE @ axes + (x, y)


def _grain(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """Smooth noise of two scales, drawn small and enlarged."""
    field = np.zeros((height, width), dtype=np.float32)
    for cell, weight in ((period, 0.65), (period / 3, 0.35)):
        size = (int(height / cell) + 2, int(width / cell) + 2)
        coarse = rng.random(size, dtype=np.float32)
        field += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return _soft_step(4 * (field - 0.5))


def _soft_step(values: np.ndarray) -> np.ndarray:
    return np.clip(0.5 + values, 0, 1).astype(np.float32)


def _blob(rng: np.random.Generator, height: int, width: int) -> Part:
    """A closed wavy outline around a random point: clutter that resembles no class."""
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    radius = np.ones_like(turn)
    for wave in range(2, 6):
        radius += rng.normal(0, 0.5 / wave) * np.cos(wave * turn + rng.uniform(0, 2 * np.pi))
    radius = np.maximum(radius, 0.15) * rng.uniform(0.05, 0.25) * height
    stretch = rng.uniform(0.6, 1.8)
    centre = rng.uniform(0, 1, 2) * (width, height)
    outline = centre + np.stack([stretch * radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    return Part(0, (outline,))


def _cover(rng: np.random.Generator, canvas: np.ndarray, part: Part) -> None:
    """Fill one part of ``canvas`` with a surface of its own, in place."""
    patch, corner = rasterise([part], np.eye(2), np.zeros(2))
    in_canvas, in_patch = overlap(patch.shape, corner, canvas.shape)
    region = canvas[in_canvas]
    if region.size:
        surface = fill(rng, *region.shape[:2], rng.uniform(45, 210))
        np.copyto(region, surface, where=patch[in_patch][..., None] > 0)
