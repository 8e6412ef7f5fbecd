"""Pictures of what a network has learnt: views, matches, attention and PCA of its maps.

First what is drawn, then how. Figures belong to no window and no global state.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor, nn
from torchvision.utils import make_grid

from pretrain.augment import Views, boxes_of
from pretrain.monitor.measures import (
    RADIUS,
    Matches,
    attention_weights,
    dense_maps,
    encoder_of,
    match,
)
from pretrain.photometry import MEAN, STD


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


def pixels(crop: Tensor) -> Tensor:
    """A normalized crop (3,S,S) as RGB in [0, 1], of the same shape, on the CPU."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (crop.float().cpu() * std + mean).clamp(0, 1)


# ---------------------------------------------------------------------------------------------
# How it is drawn

# Okabe and Ito's colours, which people with any colour vision can tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
QUERIES = 3  # cells whose attention is drawn
TITLE = 13  # font size
HALO = [withStroke(linewidth=5, foreground="white")]
# How matches are drawn: line and marker where it starts, of those that are wrong below the others
DOT = {"markerfacecolor": "black", "markeredgecolor": "white", "markersize": 8}
WRONG = {"linestyle": (0, (4, 2)), "linewidth": 1.2, "marker": "X", "zorder": 2, **DOT}
RIGHT = {"linestyle": "solid", "linewidth": 2.2, "marker": "o", "zorder": 3, **DOT}


@torch.no_grad()
def figures(
    models: Mapping[str, nn.Module], crops: Tensor, boxes: Tensor, picture: Tensor
) -> dict[str, Figure]:
    """Matches, attention (where there is one) and PCA of an image, by kind.

    models: in eval mode, by the names they go by in the pictures. crops: its two global views
    (2,3,S,S), with boxes (2,4); picture: the image (3,h,w). Both normalized.
    """
    drawn = {"matches": draw_matches(models, crops, boxes.cpu())}
    weights = [attention_weights(model, crops[:1]) for model in models.values()]
    if all(each is not None for each in weights):
        drawn["attention"] = draw_attention(list(models), _finite(torch.cat(weights)), crops[0])
    return drawn | {"pca": draw_pca(models, picture)}


def _finite(maps: Tensor) -> Tensor:
    """Float32 on the CPU; what is not finite, of a network that has diverged, is 0."""
    return torch.nan_to_num(maps.float(), 0.0, 0.0, 0.0).cpu()


def _show(ax: Axes, image: Tensor, **how: object) -> None:
    """An image (3,H,W) without axes."""
    ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest", **how)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def draw_views(image: Tensor, views: Views) -> Figure:
    """All views of an image (3,H,W) uint8, and where they were cut from it."""
    crops = [*views.global_crops, *views.local_crops]
    columns = min(4, -(-len(crops) // 2))
    rows = -(-len(crops) // columns)
    figure = Figure((5.5 + 2.1 * columns, 2.3 * rows + 0.6), layout="compressed")
    figure.suptitle("The views of one image, and where they were cut", fontsize=TITLE)
    left, right = figure.subfigures(1, 2, width_ratios=(5.5, 2.1 * columns))
    source, axes = left.subplots(), right.subplots(rows, columns, squeeze=False).flat
    _show(source, image)
    boxes = boxes_of(views.crops, "edges")
    for n, (crop, box) in enumerate(zip(crops, boxes, strict=True)):
        colour, mirrored = COLOURS[n % len(COLOURS)], bool(box[0] > box[2])
        (x0, x1), (y0, y1) = sorted(box[[0, 2]].tolist()), box[[1, 3]].tolist()
        edge = {"edgecolor": colour, "linewidth": 3 if n < 2 else 2, "path_effects": HALO}
        corner, sides = (x0 - 0.5, y0 - 0.5), (x1 - x0, y1 - y0)
        source.add_patch(Rectangle(corner, *sides, fill=False, **edge))
        # Each label at a place of its own along the upper edge, since boxes share corners
        place = x0 + (n % 8 + 1) / 9 * (x1 - x0), y0
        plate = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour}
        source.text(*place, f"{n + 1}{'↔' * mirrored}", bbox=plate, ha="center", va="center")
        _show(axes[n], crop)
        axes[n].spines[:].set(visible=True, color=colour, linewidth=4)
        kind = "global" if n < 2 else "local"
        axes[n].set_title(f"{n + 1} {kind}{', mirrored ↔' * mirrored}", fontsize=11)
    for ax in axes[len(crops) :]:
        ax.set_axis_off()
    return figure


def draw_matches(models: Mapping[str, nn.Module], crops: Tensor, boxes: Tensor) -> Figure:
    """Lines from the student's cells of one view to the teacher's most similar ones of the other.

    From all cells that have a geometric positive; what only one view shows is faded.
    """
    figure = Figure((7.2 * len(models) + 1, 4.6), layout="compressed")
    title = "The most similar cell of the other view: is it the same place?"
    figure.suptitle(title, fontsize=TITLE)
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    scale = ScalarMappable(Normalize(0, 1), "viridis_r")
    for ax, (name, model) in zip(axes, models.items(), strict=True):
        students, teachers = map(_finite, dense_maps(model, crops))
        radius = getattr(model, "positive_radius", RADIUS)
        found = match(students[:1], teachers[1:], boxes[:1], boxes[1:], radius)
        number, among = int(found.is_right.sum()), int(found.has_positive.sum())
        share = f"{found.rate:.0%}; chance {found.chance:.0%}"
        ax.set_title(f"{name}: {number} of {among} cells are right ({share})", fontsize=TITLE)
        _draw_lines(ax, found, crops, students.shape[2:], scale)
    lines = [
        Line2D([], [], color="black", label=f"{word} place", **how)
        for word, how in (("right", RIGHT), ("wrong", WRONG))
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, fontsize=11, frameon=False)
    bar = figure.colorbar(scale, ax=axes, shrink=0.8, extend="min")
    bar.set_label("cosine of the two cells", fontsize=11)
    return figure


def _draw_lines(
    ax: Axes, found: Matches, crops: Tensor, size: tuple[int, int], scale: ScalarMappable
) -> None:
    """Both views (2,3,S,S) side by side, and lines between their cells, ``size`` (H,W) of each."""
    side = crops.shape[-1]
    gap = side // 4
    views = []
    for crop, shared in zip(crops, (found.has_positive, found.is_positive.any(dim=1)), strict=True):
        white = torch.where(shared.view(1, 1, *size), 0.4, 0.8)  # through it the lines show best
        views.append(pixels(crop).lerp(torch.ones(()), F.interpolate(white, side)[0]))
    _show(ax, torch.cat([views[0], torch.ones(3, side, gap), views[1]], dim=2))
    ends = (side / 2, "view 1, student"), (side / 2 + side + gap, "view 2, teacher")
    ax.set_xticks(*zip(*ends, strict=True), fontsize=11)
    ax.tick_params(length=0)
    for cell in found.has_positive[0].nonzero()[:, 0]:
        places = torch.stack([cell, found.best[0, cell]])
        x = (places % size[1] + 0.5) / size[1] * side + torch.tensor([0, side + gap]) - 0.5
        y = (places // size[1] + 0.5) / size[0] * side - 0.5
        colour, how = scale.to_rgba(found.cosine[0, cell].item()), found.is_right[0, cell]
        ax.plot(x, y, color=colour, markevery=[0], **(RIGHT if how else WRONG))
        ax.plot(x[1], y[1], marker=".", zorder=3, **DOT)


def draw_attention(names: Sequence[str], weights: Tensor, crop: Tensor) -> Figure:
    """Where three cells of a view (3,S,S) look, in every head of the self-attention.

    weights: of each network, (networks,heads,H·W,H·W), of a square map.
    """
    heads, length = weights.shape[1:3]
    cells = math.isqrt(length)  # along a side
    queries = [(2 * n + 1) * cells // (2 * QUERIES) for n in range(QUERIES)]  # on the diagonal
    size = 1.3 * 1.12 * (heads + 1) + 1.2, 5.4 * len(names) + 0.4  # inches
    figure = Figure(size, layout="compressed")
    figure.suptitle("Where three cells look, in every head of the attention", fontsize=TITLE)
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    most = max(2.0, length * weights.flatten().quantile(0.99).item())
    scale = ScalarMappable(Normalize(0, most), "YlOrBr")
    image, side = pixels(crop), crop.shape[-1]
    gray = 0.4 + 0.6 * image.mean(dim=0)[..., None]  # light, so that colours show on it
    gap = side // 8
    starts = [gap + n * (side + gap) for n in range(heads + 1)]
    for ax, name, of in zip(axes, names, length * weights, strict=True):
        looks = of[:, [n * (cells + 1) for n in queries]].unflatten(2, (cells, cells))
        looks = F.interpolate(looks.transpose(0, 1), side).numpy()  # (QUERIES,heads,S,S)
        colours = torch.from_numpy(scale.cmap(scale.norm(looks))[..., :3]).float()
        tiles = gray.lerp(colours, 0.7).movedim(-1, 2)
        tiles = torch.cat([image.expand(QUERIES, 1, -1, -1, -1), tiles], dim=1).flatten(0, 1)
        _show(ax, make_grid(tiles, heads + 1, gap, pad_value=1.0))
        for (start, cell), x in itertools.product(zip(starts, queries, strict=False), starts):
            corner = [each + cell * side / cells - 0.5 for each in (x, start)]
            mark = {"edgecolor": "black", "linewidth": 1.5, "path_effects": HALO}
            ax.add_patch(Rectangle(corner, side / cells, side / cells, fill=False, **mark))
        columns = ["cell", *(f"head {n + 1}" for n in range(heads))]
        ax.set_xticks([x + side / 2 for x in starts], columns, fontsize=11)
        ax.tick_params(length=0, labeltop=True, labelbottom=False)
        ax.set_title(name, fontsize=TITLE)
    bar = figure.colorbar(scale, ax=axes, extend="max", shrink=0.8)
    bar.set_label("attention (1: the same to every cell)", fontsize=11)
    return figure


def draw_pca(models: Mapping[str, nn.Module], picture: Tensor) -> Figure:
    """The three main components of every cell of C5 as red, green and blue, beside the picture."""
    height, width = picture.shape[1:]
    figure = Figure((4.5 * (len(models) + 1), 4.5 * height / width + 0.8), layout="compressed")
    title = "The encoder's map C5: its three main components as red, green, blue"
    figure.suptitle(title, fontsize=TITLE)
    first, *axes = figure.subplots(1, len(models) + 1)
    _show(first, pixels(picture))
    first.set_title("image", fontsize=TITLE)
    for ax, (name, model) in zip(axes, models.items(), strict=True):
        components, held = principal_components(_finite(encoder_of(model)(picture[None])[0]))
        low, high = components.amin((1, 2), True), components.amax((1, 2), True)
        _show(ax, (components - low) / (high - low).clamp(min=1e-12), extent=(0, width, height, 0))
        ax.set_title(f"{name} ({held:.0%} of the variance)", fontsize=TITLE)
    return figure
