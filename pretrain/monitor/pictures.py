"""Pictures of what a network has learnt: views, matches, attention and PCA of its maps.

First what is drawn, then how. Figures belong to no window and no global state.
"""

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from pretrain.augment import Views, boxes_of
from pretrain.methods.clove import CLoVE, positive_cells
from pretrain.monitor.measures import attention_weights, project
from pretrain.photometry import MEAN, STD


class Maps(NamedTuple):
    """What one network makes of an image; L = H·W cells."""

    students: Tensor  # (2,D,H,W) contextualized, unit length over D, of the two global views
    teachers: Tensor  # (2,D,H,W) unit length over D
    attention: Tensor  # (2,heads,L,L), rows sum to 1
    c5: Tensor  # (C,h,w) of the student's encoder, of the picture


class Matches(NamedTuple):
    """The most similar teacher cell of every student cell; all fields but the last (Ls,)."""

    best: Tensor  # int64, which of the teacher's cells
    cosine: Tensor  # of that pair
    has_positive: Tensor  # bool: a teacher cell lies at the same place
    is_right: Tensor  # bool: the most similar one does
    seen: Tensor  # bool (Lt,): teacher cells at whose place a student cell lies
    chance: float  # share of cells with a positive that a blind choice would match


# ---------------------------------------------------------------------------------------------
# What is drawn


@torch.no_grad()
def embed(model: CLoVE, crops: Tensor, picture: Tensor) -> Maps:
    """What ``model``, in eval mode, makes of two global views (2,3,S,S) and a picture (3,h,w).

    All normalized. Maps are float32 on the CPU; what is not finite, of a network that has diverged,
    is 0.
    """
    student, teacher = project(model, crops)
    maps = (
        model.contextualize(student),
        F.normalize(teacher.float(), dim=1),
        attention_weights(model, student),
        model.student.encoder(picture[None])[0],
    )
    return Maps(*(torch.nan_to_num(each.float(), 0.0, 0.0, 0.0).cpu() for each in maps))


def match(
    student: Tensor, teacher: Tensor, student_box: Tensor, teacher_box: Tensor, radius: float
) -> Matches:
    """Match the cells of maps (D,H,W), unit length over D, of one image; boxes (4,)."""
    boxes = student_box[None], teacher_box[None]
    is_positive = positive_cells(student[None], teacher[None], *boxes, radius)[0]  # (Ls,Lt)
    cosine, best = (student.flatten(1).T @ teacher.flatten(1)).max(dim=1)
    has_positive = is_positive.any(dim=1)
    is_right = is_positive.gather(1, best[:, None])[:, 0]
    chance = is_positive[has_positive].float().mean().item() if has_positive.any() else 0.0
    return Matches(best, cosine, has_positive, is_right, is_positive.any(dim=0), chance)


def principal_components(maps: Tensor, count: int = 3) -> tuple[Tensor, float]:
    """The cells of (C,h,w) along their ``count`` directions of most variance, (count,h,w).

    And the share of the variance that these directions hold. The largest entry of each direction
    is positive, so that a map has one picture and not one of several.
    """
    cells = maps.flatten(1).T.double()
    cells = cells - cells.mean(dim=0)
    _, values, directions = torch.linalg.svd(cells, full_matrices=False)
    directions = F.pad(directions, (0, 0, 0, max(count - len(directions), 0)))[:count]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    directions = directions * torch.where(directions.gather(1, largest) < 0, -1, 1)
    held = (values[:count].square().sum() / values.square().sum().clamp(min=1e-12)).item()
    return (cells @ directions.T).T.unflatten(1, maps.shape[1:]).float(), held


def pixels(crop: Tensor) -> np.ndarray:
    """A normalized crop (3,S,S) as RGB (S,S,3) in [0, 1]."""
    crop = crop.float().cpu().permute(1, 2, 0)
    return (crop * torch.tensor(STD) + torch.tensor(MEAN)).clamp(0, 1).numpy()


# ---------------------------------------------------------------------------------------------
# How it is drawn

# Okabe and Ito's colours, which people with any colour vision can tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
LIGHT = COLOURS[4:7]  # on which text is black
ATTENTION = "YlOrBr"
GAP = 0.12  # between tiles, whose sides are 1
QUERIES = 3  # cells whose attention is drawn
TITLE = 13  # font size
# How matches are drawn: line, its width, marker where it starts
WRONG = {"linestyle": (0, (4, 2)), "linewidth": 1.2, "marker": "X"}
RIGHT = {"linestyle": "solid", "linewidth": 2.2, "marker": "o"}


def figures(
    maps: Mapping[str, Maps], crops: Tensor, boxes: Tensor, picture: Tensor, radius: float
) -> dict[str, Figure]:
    """Matches, attention (where there are heads) and PCA of an image, by kind.

    maps: of each network, by the name it goes by in the pictures. The other arguments as those of
    ``embed``, boxes (2,4).
    """
    drawn = {
        "matches": draw_matches(maps, crops, boxes, radius),
        "attention": draw_attention(maps, crops[0]),
        "pca": draw_pca(maps, picture),
    }
    return {kind: figure for kind, figure in drawn.items() if figure is not None}


def to_array(figure: Figure) -> np.ndarray:
    """A figure as RGB uint8 (H,W,3)."""
    figure.set_dpi(80)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def draw_views(image: Tensor, views: Views) -> Figure:
    """All views of an image (3,H,W) uint8, and where they were cut from it."""
    crops = [*views.global_crops, *views.local_crops]
    columns = min(4, -(-len(crops) // 2))
    rows = -(-len(crops) // columns)
    figure = Figure((5.5 + 2.1 * columns, 2.3 * rows + 0.6), layout="compressed")
    figure.suptitle("The views of one image, and where they were cut", fontsize=TITLE)
    left, right = figure.subfigures(1, 2, width_ratios=(5.5, 2.1 * columns))
    source, axes = left.subplots(), [*right.subplots(rows, columns, squeeze=False).flat]
    source.imshow(image.permute(1, 2, 0).numpy())
    for n, (ax, crop, box) in enumerate(
        zip(axes, crops, boxes_of(views.crops, "centers").tolist(), strict=False)
    ):
        colour, mirrored = COLOURS[n % len(COLOURS)], box[0] > box[2]
        _outline(source, box, image.shape[1:], f"{n + 1}{'↔' * mirrored}", n, colour)
        ax.imshow(crop.permute(1, 2, 0).numpy())
        kind = "global" if n < 2 else "local"
        ax.set_title(f"{n + 1} {kind}{', mirrored ↔' * mirrored}", fontsize=11)
        edge = {"fill": False, "edgecolor": colour, "linewidth": 6}
        ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, **edge))
    for ax in (source, *axes):
        ax.set_axis_off()
    return figure


def _outline(
    ax: Axes, box: list[float], size: tuple[int, int], text: str, n: int, colour: str
) -> None:
    """The box of view ``n`` on the image of ``size`` (H,W) pixels."""
    height, width = size
    x0, x1 = sorted((box[0] * (width - 1), box[2] * (width - 1)))  # pixel centres
    y0, y1 = box[1] * (height - 1), box[3] * (height - 1)
    line = 3 if n < 2 else 2
    halo = [withStroke(linewidth=line + 2, foreground="white")]
    how = {"fill": False, "edgecolor": colour, "linewidth": line, "path_effects": halo}
    ax.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, **how))
    # Each label at a place of its own along the upper edge, since boxes share corners
    x = x0 + (n % 8 + 1) / 9 * (x1 - x0)
    box = {"boxstyle": "round,pad=0.2", "facecolor": colour, "edgecolor": "white"}
    ink = "black" if colour in LIGHT else "white"
    ax.text(x, y0, text, color=ink, bbox=box, ha="center", va="center", size=10, weight="bold")


def draw_matches(maps: Mapping[str, Maps], crops: Tensor, boxes: Tensor, radius: float) -> Figure:
    """Lines from the student's cells of one view to the teacher's most similar ones of the other.

    From all cells that have a geometric positive; what only one view shows is faded.
    """
    figure = Figure((7.2 * len(maps) + 1, 4.6), layout="compressed")
    figure.suptitle(
        "The most similar cell of the other view: is it the same place?", fontsize=TITLE
    )
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    scale = ScalarMappable(Normalize(0, 1), "viridis_r")
    for ax, (name, of) in zip(axes, maps.items(), strict=True):
        found = match(of.students[0], of.teachers[1], boxes[0].cpu(), boxes[1].cpu(), radius)
        number, among = int(found.is_right.sum()), int(found.has_positive.sum())
        share = f"{number / max(among, 1):.0%}; chance {found.chance:.0%}"
        ax.set_title(f"{name}: {number} of {among} cells are right ({share})", fontsize=TITLE)
        _draw_lines(ax, found, pixels(crops[0]), pixels(crops[1]), of.students.shape[2:], scale)
    lines = [
        Line2D([], [], color="black", label=f"{word} place", **how)
        for word, how in (("right", RIGHT), ("wrong", WRONG))
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    bar = figure.colorbar(scale, ax=axes, shrink=0.8, extend="min")
    bar.set_label("cosine of the two cells", fontsize=11)
    return figure


def _draw_lines(
    ax: Axes,
    found: Matches,
    student: np.ndarray,
    teacher: np.ndarray,
    size: tuple[int, int],
    scale: ScalarMappable,
) -> None:
    """Both views, RGB (S,S,3), side by side; lines between their cells, ``size`` (H,W) of each."""
    away = 1 + 2 * GAP  # where the teacher's view begins
    for x, image, shared, text in (
        (0, student, found.has_positive, "view 1, student"),
        (away, teacher, found.seen, "view 2, teacher"),
    ):
        _tile(ax, image, x, 0)
        fade = np.ones((*size, 4))  # white, through which the lines show best
        fade[..., 3] = torch.where(shared, 0.4, 0.8).view(size)
        _tile(ax, fade, x, 0)
        ax.text(x + 0.5, 1.03, text, ha="center", va="top", size=11)
    starts = _centers(torch.arange(len(found.best)), *size)
    ends = _centers(found.best, *size) + np.array([away, 0])
    for chosen, how in ((found.has_positive & ~found.is_right, WRONG), (found.is_right, RIGHT)):
        segments = np.stack([starts, ends], axis=1)[chosen.numpy()]
        colours = scale.to_rgba(found.cosine[chosen].numpy())
        line = {"linestyle": how["linestyle"], "linewidth": how["linewidth"]}
        ax.add_collection(LineCollection(segments, colors=colours, **line))
        edge = {"c": "black", "edgecolors": "white", "linewidths": 0.8, "zorder": 3}
        ax.scatter(*segments[:, 0].T, s=50, marker=how["marker"], **edge)
        ax.scatter(*segments[:, 1].T, s=14, **edge)
    _frame(ax, away + 1, 1.1)


def _tile(ax: Axes, image: np.ndarray, x: float, y: float, **how: object) -> None:
    """An image as a square of side 1, its upper left corner at (x, y)."""
    ax.imshow(image, extent=(x, x + 1, y + 1, y), interpolation="nearest", **how)


def _frame(ax: Axes, right: float, bottom: float, top: float = 0) -> None:
    """What of ``ax`` is shown: 0 to right, and top to bottom downwards."""
    ax.set(xlim=(0, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()


def _centers(cells: Tensor, height: int, width: int) -> np.ndarray:
    """(x, y) of row-major cells in a tile, (N,2)."""
    return torch.stack([(cells % width + 0.5) / width, (cells // width + 0.5) / height], 1).numpy()


def draw_attention(maps: Mapping[str, Maps], crop: Tensor) -> Figure | None:
    """Where three cells of the first view look, in every head of the self-attention, if any."""
    heads, length = next(iter(maps.values())).attention.shape[1:3]
    if not heads:
        return None
    pitch = 1 + GAP
    right, bottom = pitch * heads + 1, pitch * QUERIES - GAP
    size = 1.3 * right + 1.2, (1.3 * (bottom + 0.2) + 0.5) * len(maps) + 0.4  # inches
    figure = Figure(size, layout="compressed")
    figure.suptitle("Where three cells look, in every head of the attention", fontsize=TITLE)
    axes = figure.subplots(len(maps), 1, squeeze=False)[:, 0]
    weights = torch.stack([of.attention[0] for of in maps.values()]) * length
    scale = Normalize(0, max(2.0, weights.flatten().quantile(0.99).item()))
    image = pixels(crop)
    gray = 0.4 + 0.6 * image.mean(axis=2)  # light, so that colours show on it
    for ax, (name, of), weight in zip(axes, maps.items(), weights, strict=True):
        height, width = of.students.shape[2:]
        ax.set_title(name, fontsize=TITLE)
        for column in range(heads + 1):
            text = f"head {column}" if column else "cell"
            ax.text(pitch * column + 0.5, -0.05, text, ha="center", size=11)
        for query, column in itertools.product(range(QUERIES), range(heads + 1)):
            row, cell = ((2 * query + 1) * side // (2 * QUERIES) for side in (height, width))
            x, y = pitch * column, pitch * query
            if column:
                looks = weight[column - 1, row * width + cell].view(height, width).numpy()
                _tile(ax, gray, x, y, cmap="gray", vmin=0, vmax=1)
                _tile(ax, looks, x, y, norm=scale, alpha=0.7, cmap=ATTENTION)
            else:
                _tile(ax, image, x, y)
            corner = x + cell / width, y + row / height
            mark = {"fill": False, "edgecolor": "black", "linewidth": 1.5}
            halo = [withStroke(linewidth=3.5, foreground="white")]
            ax.add_patch(Rectangle(corner, 1 / width, 1 / height, path_effects=halo, **mark))
        _frame(ax, right, bottom, top=-0.2)
    bar = figure.colorbar(ScalarMappable(scale, ATTENTION), ax=axes, extend="max", shrink=0.8)
    bar.set_label("attention (1: the same to every cell)", fontsize=11)
    return figure


def draw_pca(maps: Mapping[str, Maps], picture: Tensor) -> Figure:
    """The three main components of every cell of C5 as red, green and blue, beside the picture."""
    height, width = picture.shape[1:]
    figure = Figure((4.5 * (len(maps) + 1), 4.5 * height / width + 0.8), layout="compressed")
    title = "The encoder's map C5: its three main components as red, green, blue"
    figure.suptitle(title, fontsize=TITLE)
    first, *axes = figure.subplots(1, len(maps) + 1)
    first.imshow(pixels(picture))
    first.set_title("image", fontsize=TITLE)
    for ax, (name, of) in zip(axes, maps.items(), strict=True):
        components, held = principal_components(of.c5)
        low, high = components.amin((1, 2), True), components.amax((1, 2), True)
        colours = ((components - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0).numpy()
        ax.imshow(colours, extent=(0, width, height, 0), interpolation="nearest")
        ax.set_title(f"{name} ({held:.0%} of the variance)", fontsize=TITLE)
    for ax in (first, *axes):
        ax.set_axis_off()
    return figure
