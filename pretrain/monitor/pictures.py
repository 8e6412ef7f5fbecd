"""Pictures of what a network has learnt: views, matches, attention and PCA of its maps.

First what is drawn, then how. Figures belong to no window and no global state.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from pretrain.augment import Views, boxes_of
from pretrain.monitor.measures import (
    RADIUS,
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
MAX_SHOWN = 2000  # px of a side of the source, of which every so many are drawn beyond it
QUERIES = 3  # cells whose attention is drawn
RIGHT = {"color": COLOURS[2], "linestyle": "solid"}
WRONG = {"color": COLOURS[1], "linestyle": "dashed"}


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


def _show(ax: Axes, image: Tensor, title: str = "", **how: object) -> None:
    """An image (3,H,W) without axes."""
    ax.imshow(image.permute(1, 2, 0).numpy(), interpolation="nearest", **how)
    ax.set(xticks=[], yticks=[], title=title)


def draw_views(image: Tensor, views: Views) -> Figure:
    """All views of an image (3,H,W) uint8, and where they were cut from it."""
    crops = [*views.global_crops, *views.local_crops]
    rows = 1 + len(crops) // 3
    figure = Figure((12, 3.5 * rows), layout="compressed")
    source, *axes = figure.subplots(rows, 3).flat
    height, width = image.shape[1:]
    few = image[:, :: 1 + height // MAX_SHOWN, :: 1 + width // MAX_SHOWN]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    _show(source, few, "where the views were cut", extent=extent)
    for n, (crop, box) in enumerate(zip(crops, boxes_of(views.crops, "edges"), strict=True)):
        colour, mirrored = COLOURS[n % len(COLOURS)], bool(box[0] > box[2])
        (x0, x1), (y0, y1) = sorted(box[[0, 2]].tolist()), box[[1, 3]].tolist()
        corner = x0 - 0.5, y0 - 0.5  # centres of pixels lie at whole numbers
        edge = {"edgecolor": colour, "linewidth": 3}
        source.add_patch(Rectangle(corner, x1 - x0, y1 - y0, fill=False, **edge))
        source.annotate(f"{n + 1}", corner, color=colour, weight="bold")
        _show(axes[n], crop, f"{n + 1}{', mirrored' * mirrored}")
        axes[n].spines[:].set(color=colour, linewidth=4)
    for ax in axes[len(crops) :]:
        ax.set_axis_off()
    return figure


def draw_matches(models: Mapping[str, nn.Module], crops: Tensor, boxes: Tensor) -> Figure:
    """Lines from the student's cells of one view to the teacher's most similar ones of the other.

    From all cells that have a geometric positive.
    """
    figure = Figure((7 * len(models), 4.6), layout="compressed")
    figure.suptitle("The most similar cell of the other view: is it the same place?")
    figure.supxlabel("student's view and teacher's; solid: the right place, dashed: a wrong one")
    axes = figure.subplots(1, len(models), squeeze=False)[0]
    both, side = torch.cat([pixels(crop) for crop in crops], dim=2), crops.shape[-1]
    for ax, (name, model) in zip(axes, models.items(), strict=True):
        students, teachers = map(_finite, dense_maps(model, crops))
        radius = getattr(model, "positive_radius", RADIUS)
        found = match(students[:1], teachers[1:], boxes[:1], boxes[1:], radius)
        number, among = int(found.is_right.sum()), int(found.has_positive.sum())
        share = f"{found.rate:.0%}; chance {found.chance:.0%}"
        _show(ax, both, f"{name}: {number} of {among} cells are right ({share})")
        height, width = students.shape[2:]
        for cell in found.has_positive[0].nonzero()[:, 0]:
            places = torch.stack([cell, found.best[0, cell]])
            x = (places % width + 0.5) / width * side + torch.tensor([0, side]) - 0.5
            y = (places // width + 0.5) / height * side - 0.5
            ax.plot(x, y, marker="o", **(RIGHT if found.is_right[0, cell] else WRONG))
    return figure


def draw_attention(names: Sequence[str], weights: Tensor, crop: Tensor) -> Figure:
    """Where three cells of a view (3,S,S) look, in every head of the self-attention.

    weights: of each network, (networks,heads,H·W,H·W), of a square map.
    """
    heads, length = weights.shape[1:3]
    cells = math.isqrt(length)  # along a side
    rows = [(n, name, query) for n, name in enumerate(names) for query in range(QUERIES)]
    figure = Figure((1.5 * (heads + 1) + 1, 1.7 * len(rows)))
    figure.suptitle("Where three cells look, in every head of the attention")
    axes = figure.subplots(len(rows), heads + 1)
    image, width = pixels(crop), crop.shape[-1] / cells  # px, of a cell
    scale = ScalarMappable(Normalize(0, max(2.0, length * weights.quantile(0.99).item())), "YlOrBr")
    for row, (n, name, query) in zip(axes, rows, strict=True):
        place = (2 * query + 1) * cells // (2 * QUERIES)  # on the diagonal
        _show(row[0], image, name)
        corner = place * width - 0.5, place * width - 0.5
        row[0].add_patch(Rectangle(corner, width, width, fill=False, linewidth=2))
        looks = length * weights[n, :, place * (cells + 1)].unflatten(1, (cells, cells))
        for head, ax in enumerate(row[1:]):
            ax.imshow(looks[head].numpy(), scale.cmap, scale.norm)
            ax.set(xticks=[], yticks=[], title=f"head {head + 1}")
    figure.colorbar(scale, ax=axes, extend="max", label="attention (1: the same to every cell)")
    return figure


def draw_pca(models: Mapping[str, nn.Module], picture: Tensor) -> Figure:
    """The three main components of every cell of C5 as red, green and blue, beside the picture."""
    height, width = picture.shape[1:]
    figure = Figure((4.5 * (len(models) + 1), 4.5 * height / width + 0.8), layout="compressed")
    figure.suptitle("The encoder's map C5: its three main components as red, green, blue")
    first, *axes = figure.subplots(1, len(models) + 1)
    _show(first, pixels(picture), "image")
    for ax, (name, model) in zip(axes, models.items(), strict=True):
        components, held = principal_components(_finite(encoder_of(model)(picture[None])[0]))
        low, high = components.amin((1, 2), True), components.amax((1, 2), True)
        shown = (components - low) / (high - low).clamp(min=1e-12)
        _show(ax, shown, f"{name} ({held:.0%} of the variance)", extent=(0, width, height, 0))
    return figure
