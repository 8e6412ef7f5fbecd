"""One image with its labels: which objects it has, where they stand, and what is seen of them.

An image depends on (seed, split, index, longest side) only. Objects are placed from front to back;
one that would show too little of itself is left out of the picture, so nothing that is drawn lacks
its label.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from benchmarks.scenes.draw import Figure, background, bounds, expose, overlap, paint, rasterise
from benchmarks.scenes.people import MIRRORED, riding, standing
from benchmarks.scenes.shapes import RECIPES

# "rider" is Cityscapes' name for a person on a bicycle or motorcycle.
CLASSES = (*sorted(RECIPES), "person", "rider")
CROWDS = ("person", "person", "sheep", "bird", "cow", "bicycle", "bottle", "car", "boat", "chair")
SPLITS = ("unlabelled", "train", "val")  # the position is part of an image's seed

MIN_PIXELS = 40  # an object that shows less is not drawn
MIN_SHARE = 0.25  # nor one that shows less of itself than this
CROWD_MIN_PIXELS = 12  # of a member of a crowd
CROWD_MIN_MEMBERS = 5


class Difficulty(NamedTuple):
    """How hard it is to find and to tell objects in an image.

    Scales are relative to the image's shorter side, from and to.
    """

    front_scale: tuple[float, float]  # of the frontmost object
    scale: tuple[float, float]  # of the others
    others: tuple[int, int]  # how many are tried, from and to
    crowd_rate: float  # share of images with a crowd
    clutter: bool  # in the background
    own_look: bool  # each object its own colours and pattern, not those of its class
    classes: tuple[str, ...] = CLASSES  # that are drawn


HARD = Difficulty((0.35, 0.75), (0.13, 0.8), (1, 6), crowd_rate=0.12, clutter=True, own_look=True)
EASY = Difficulty(
    front_scale=(0.4, 0.8),
    scale=(0.25, 0.7),
    others=(0, 3),
    crowd_rate=0.0,
    clutter=False,
    own_look=False,
    classes=("bicycle", "bus", "car", "motorcycle", "person", "train"),  # every data set has them
)


@dataclass(frozen=True)
class Drawn:
    """How a figure came into the image, for labels that go by its parts."""

    figure: Figure
    matrix: np.ndarray  # (2, 2): the figure's point p is at matrix @ p + offset, px
    offset: np.ndarray  # (2,)
    shown: np.ndarray  # (h, w) uint8: which part a visible pixel shows, from 1; elsewhere 0


@dataclass(frozen=True)
class Instance:
    """One object, or one crowd: all its members together."""

    name: str  # one of CLASSES
    mask: np.ndarray  # (h, w) bool: the visible pixels
    hidden: float = 0.0  # share of its pixels within the image that others cover
    cut: float = 0.0  # share of its pixels beyond the border
    joints: np.ndarray | None = None  # people's: (17, 2), px, hidden and outside ones included
    drawn: Drawn | None = None  # people's
    members: tuple["Instance", ...] = ()  # of a crowd

    @property
    def is_crowd(self) -> bool:
        return bool(self.members)

    @property
    def area(self) -> int:
        """Visible pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tightest x, y, width, height around the visible pixels, in whole px."""
        columns, rows = np.flatnonzero(self.mask.any(axis=0)), np.flatnonzero(self.mask.any(axis=1))
        x, y = columns[0], rows[0]
        return int(x), int(y), int(columns[-1] - x + 1), int(rows[-1] - y + 1)


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # (h, w, 3) uint8, RGB
    instances: list[Instance] = field(default_factory=list)  # front to back, crowds included


def make_scene(
    seed: int, split: str, index: int, longest_side: int = 192, easy: bool = False
) -> Scene:
    """Draw image ``index`` of ``split`` (one of SPLITS); its sides are 2/3 to 1 of the longest.

    The frontmost object is of class ``index`` modulo their number and nearly whole, so that a split
    shows every class as soon as it has that many images. ``easy``: of EASY's classes, not of all.
    """
    sequence = np.random.SeedSequence((seed, SPLITS.index(split), index))
    rng = np.random.Generator(np.random.PCG64(sequence))
    height, width = rng.integers(-(-2 * longest_side // 3), longest_side, 2, endpoint=True)
    level = EASY if easy else HARD
    stage = _Stage(rng, height, width, level)
    front = level.classes[index % len(level.classes)]
    stage.add_objects(front, rng.uniform(*level.front_scale), within=True)
    for name in rng.choice(level.classes, rng.integers(*level.others, endpoint=True)):
        stage.add_objects(str(name), np.exp(rng.uniform(*np.log(level.scale))))
    if rng.random() < level.crowd_rate:
        stage.add_crowd(str(rng.choice(CROWDS)))
    return Scene(expose(rng, stage.canvas), stage.instances)


def sketch(name: str, rng: np.random.Generator) -> list[Figure]:
    """What is drawn for a class, front to back: one figure, or a rider and the mount."""
    if name == "rider":
        return riding(rng)
    return [standing(rng) if name == "person" else Figure(name, RECIPES[name](rng))]


class _Stage:
    """An image that is being drawn from front to back."""

    def __init__(
        self, rng: np.random.Generator, height: int, width: int, level: Difficulty
    ) -> None:
        self.rng, self.level = rng, level
        self.canvas = background(rng, height, width, level.clutter)  # (h, w, 3) float32
        self.free = np.ones((height, width), dtype=bool)  # where nothing stands yet
        self.instances: list[Instance] = []

    def add_objects(self, name: str, scale: float, within: bool = False) -> None:
        """Place what a class draws; ``scale``: its size relative to the image's shorter side."""
        height, width = self.free.shape
        figures = sketch(name, self.rng)
        matrix, extent = _pose(self.rng, figures, scale * min(height, width))
        # Half of the extent away from the border it is whole, if there is room for that.
        margin = (0.5 if within else 0.05) * extent
        spread = np.maximum((width, height) - 2 * margin, 0)
        centre = np.array([width, height]) / 2 + self.rng.uniform(-0.5, 0.5, 2) * spread
        self.instances += self._draw(figures, matrix, centre, MIN_PIXELS)

    def add_crowd(self, name: str) -> None:
        """Many small objects of one class, close together, behind everything else."""
        height, width = self.free.shape
        size = self.rng.uniform(0.07, 0.12) * min(height, width)
        columns, rows = self.rng.integers(4, 8), self.rng.integers(2, 4)
        corner = self.rng.uniform(0, (max(width - size * columns, 1), max(height - size * rows, 1)))
        before = self.canvas.copy(), self.free.copy()
        members = []
        for row in reversed(range(rows)):
            for column in self.rng.permutation(columns):
                figures = sketch(name, self.rng)
                matrix, _ = _pose(self.rng, figures, size * self.rng.uniform(0.85, 1.3))
                jitter = self.rng.normal(0, 0.15, 2)
                centre = corner + 0.8 * size * (np.array([column, row]) + 0.5 + jitter)
                members += self._draw(figures, matrix, centre, CROWD_MIN_PIXELS)
        if len(members) < CROWD_MIN_MEMBERS:
            self.canvas, self.free = before
            return
        mask = np.logical_or.reduce([member.mask for member in members])
        self.instances.append(Instance(name, mask, members=tuple(members)))

    def _draw(
        self, figures: list[Figure], matrix: np.ndarray, centre: np.ndarray, min_pixels: int
    ) -> list[Instance]:
        """Paint the figures where nothing stands yet; all of them, or none if one shows too little.

        Their common box is centred on ``centre`` (x, y), px.
        """
        low, high = bounds([part for figure in figures for part in figure.parts])
        offset = centre - matrix @ ((low + high) / 2)
        canvas, free = self.canvas.copy(), self.free.copy()
        instances = []
        for figure in figures:
            patch, corner = rasterise(figure.parts, matrix, offset)
            in_image, in_patch = overlap(patch.shape, corner, free.shape)
            inside = patch[in_patch] > 0
            visible = inside & free[in_image]
            area, area_inside, area_whole = map(np.count_nonzero, (visible, inside, patch))
            if area < max(min_pixels, MIN_SHARE * area_whole):
                return []
            look = self.rng
            if not self.level.own_look:
                look = np.random.default_rng(CLASSES.index(figure.name))  # in all scenes the same
            colours = paint(self.rng, figure.parts, patch, look)
            canvas[in_image][visible] = colours[in_patch][visible]
            free[in_image] &= ~inside
            mask = np.zeros(free.shape, dtype=bool)
            mask[in_image] = visible
            hidden, cut = 1 - area / area_inside, 1 - area_inside / area_whole
            joints = drawn = None
            if figure.joints is not None:
                joints = figure.joints @ matrix.T + offset
                if np.linalg.det(matrix) < 0:
                    joints = joints[MIRRORED]
                shown = np.zeros(free.shape, dtype=np.uint8)
                shown[in_image] = patch[in_patch] * visible
                drawn = Drawn(figure, matrix, offset, shown)
            instances.append(Instance(figure.name, mask, hidden, cut, joints, drawn))
        self.canvas, self.free = canvas, free
        return instances


def _pose(
    rng: np.random.Generator, figures: list[Figure], size: float
) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (2, 2) that stretches, tilts, mirrors and scales the figures, and their extent.

    ``size`` is the square root of the area of the box around them, in px; the extent is that box's
    width and height (2,).
    """
    low, high = bounds([part for figure in figures for part in figure.parts])
    stretch = np.exp(rng.normal(0, 0.08))
    tilt, mirror = np.radians(rng.normal(0, 5)), rng.choice([-1, 1])
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    matrix = turn @ np.diag([mirror * stretch, 1 / stretch])
    extent = np.abs(matrix) @ (high - low)
    factor = size / np.sqrt(extent.prod())
    return factor * matrix, factor * extent
