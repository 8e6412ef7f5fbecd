"""What a pretraining has learnt, told by its own embeddings of fixed views: no labels are read.

The loss says little: it starts near 100 and moves by less than one. These numbers have a scale:
chance, the network before training, and what a collapsed embedding would give.
"""

import copy
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.methods.clove import positive_cells

RADIUS = 0.7  # diagonals of the larger cell, within which cells lie at the same place, as in CLoVE
STATISTICS_VIEWS = 16  # global views that tell BN statistics well enough for pictures
COLLAPSED_SPREAD = 0.3  # embedding_spread below it: the cells' embeddings are nearly one
COLLAPSED_RANK = 2.0  # effective_rank below it: they lie along one line
RUNAWAY_GROWTH = 1.5  # weight_growth above it: steps as long as the weights themselves


def encoder_of(model: nn.Module) -> nn.Module:
    """The trunk that is exported, whose C5 downstream tasks start from."""
    return getattr(model, model.exported).encoder


def dense_maps(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Unit embeddings (N,D,H,W) of student and teacher of normalized images (N,3,S,S).

    A method without ``maps`` of its own is judged by its C5, on both sides.
    """
    if hasattr(model, "maps"):
        return model.maps(images)
    c5 = F.normalize(encoder_of(model)(images).float(), dim=1)
    return c5, c5


def attention_weights(model: nn.Module, images: Tensor) -> Tensor | None:
    """How much each cell looks at each other, (N,heads,H·W,H·W); None where no attention is."""
    if getattr(model, "attention", None) is None:
        return None
    maps = model.student.projector(model.student.encoder(images))
    tokens = maps.flatten(2).transpose(1, 2)
    return model.attention(tokens, tokens, tokens, average_attn_weights=False)[1].float()


@torch.no_grad()
def settled(model: nn.Module, crops: Tensor) -> nn.Module:
    """A copy of ``model`` in eval mode whose BN normalizes as for ``crops`` (N,3,S,S), normalized.

    A student's running statistics may blend global and local crops, so those of all networks are
    computed anew from global ones, in one pass. Under SyncBN every rank must call it; in eval mode
    ranks do not wait for each other.
    """
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0  # what this batch has takes the place of what was
    dense_maps(model.train(), crops)
    return model.eval()


@torch.no_grad()
def measure(model: nn.Module, global_crops: Tensor, boxes: Tensor) -> dict[str, float]:
    """The monitors of ``model`` on global views (2,B,3,S,S), normalized, with boxes (2,B,4).

    A copy of its networks runs as in training, on the views' own BN statistics. ``match_rate``:
    share of the student's cells with a positive whose most similar teacher cell is one, beside
    ``match_chance``. Cosines between student and teacher: ``random_similarity`` of cells of
    different images. ``embedding_spread``: std of the embeddings' entries times √D, 1 when they
    point everywhere. ``effective_rank``: RankMe (arXiv 2210.02885), 1 to D. Of a method with a
    teacher ``weight_growth``: norm of the student's weights over the teacher's, which are their
    past. Of CLoVE the loss's own statistics, and for every head of the attention: its entropy, 1
    when all cells weigh the same, and the mean distance in cells at which it looks.
    """
    training = copy.deepcopy(model).train()
    crops = global_crops.flatten(0, 1)
    students, teachers = dense_maps(training, crops)  # (2·B,D,H,W)
    weights = attention_weights(training, crops)
    with torch.autocast(boxes.device.type, enabled=False):  # in float32, as the loss
        students, teachers = students.float(), teachers.float()
        others = teachers.roll(boxes.shape[1], dims=0)  # every view against the other one
        both = boxes.flatten(0, 1), boxes.flip(0).flatten(0, 1)
        found = match(students, others, *both, getattr(model, "positive_radius", RADIUS))
        values = {"match_rate": found.rate, "match_chance": found.chance}
        if hasattr(model, "multicrop_loss"):
            own = model.multicrop_loss(students, students[:0], teachers, boxes)[1]
            values |= {name: value.item() for name, value in own.items()}
            del values["embedding_std"]  # the spread has a scale
        # The mean of all products of cells of one image and of the next is that of their means
        strangers = others.unflatten(0, (2, -1)).roll(1, dims=1).flatten(0, 1)
        means = [maps.flatten(2).mean(dim=2) for maps in (students, strangers)]
        cells = students.flatten(2).movedim(1, -1).flatten(0, 1)  # (2·B·L,D)
        values |= {
            "random_similarity": (means[0] * means[1]).sum(dim=-1).mean().item(),
            "embedding_spread": cells.std(dim=0).mean().item() * math.sqrt(cells.shape[1]),
            "effective_rank": effective_rank(cells),
        }
        if hasattr(model, "teacher"):
            values["weight_growth"] = _norm(model.student) / _norm(model.teacher)
        if weights is not None:
            values |= attention_statistics(weights, *students.shape[2:])
    return values


class Matches(NamedTuple):
    """The most similar teacher cell of every student cell."""

    best: Tensor  # (N,Ls) int64, which of the teacher's cells
    cosine: Tensor  # (N,Ls) of that pair
    is_right: Tensor  # (N,Ls) bool: the two lie at the same place
    is_positive: Tensor  # (N,Ls,Lt) bool: all pairs of cells that do

    @property
    def has_positive(self) -> Tensor:
        """Student cells at whose place a teacher cell lies, (N,Ls) bool."""
        return self.is_positive.any(dim=-1)

    @property
    def rate(self) -> float:
        """Share of the cells that have a positive whose best match is one."""
        return self.is_right.sum().item() / max(self.has_positive.sum().item(), 1)

    @property
    def chance(self) -> float:
        """What a blind choice would have for a rate."""
        share = self.is_positive.float().mean(dim=-1)
        return share.sum().item() / max(self.has_positive.sum().item(), 1)


def match(
    students: Tensor,
    teachers: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    radius: float = RADIUS,
) -> Matches:
    """Match the cells of unit maps (N,D,H,W), whose sizes may differ; boxes (N,4)."""
    is_positive = positive_cells(students, teachers, student_boxes, teacher_boxes, radius)
    similarity = torch.einsum("nds,ndt->nst", students.flatten(2), teachers.flatten(2))
    cosine, best = similarity.max(dim=2)
    return Matches(best, cosine, is_positive.gather(2, best[..., None])[..., 0], is_positive)


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the singular values' shares (RankMe), of embeddings (N,D).

    NaN where an embedding is not finite. In float64 the eigenvalues of the Gram matrix, which are
    the squares, tell them well enough: those under 1e-8 of the largest do not count.
    """
    if not torch.isfinite(embeddings).all():
        return math.nan
    wide = embeddings.double()
    gram = wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    shares = values / values.sum() + 1e-7
    return torch.exp(-(shares * shares.log()).sum()).item()


def _norm(network: nn.Module) -> float:
    """Of all weights; BN's scales and biases, which LARS does not adapt, are left out."""
    weights = [parameter.detach() for parameter in network.parameters() if parameter.ndim > 1]
    return torch.stack(torch._foreach_norm(weights)).norm().item()


def attention_statistics(weights: Tensor, height: int, width: int) -> dict[str, float]:
    """Entropy over its largest value, and mean distance in cells, of each head of (N,heads,L,L)."""
    most = math.log(max(weights.shape[-1], 2))
    entropy = torch.special.entr(weights).sum(dim=-1) / most
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1).to(weights)  # (L,2)
    distance = (weights * torch.cdist(places, places)).sum(dim=-1)
    return {
        f"attention_{name}_{head}": value
        for name, each in (("entropy", entropy), ("distance", distance))
        for head, value in enumerate(each.mean(dim=(0, 2)).tolist())
    }


def warning(values: dict[str, float]) -> str | None:
    """What is wrong with a run whose monitors say ``values``; None when nothing is."""
    if not all(math.isfinite(value) for value in values.values()):
        return "a monitor is not finite: the run has diverged; lower SOLVER.BASE_LR"
    if values["embedding_spread"] < COLLAPSED_SPREAD or values["effective_rank"] < COLLAPSED_RANK:
        return (
            f"the embedding has collapsed (spread {values['embedding_spread']:.2f} of 1, effective "
            f"rank {values['effective_rank']:.1f}): lower SOLVER.BASE_LR, or look at the data"
        )
    if values.get("weight_growth", 0) > RUNAWAY_GROWTH:
        return (
            f"the student's weights are {values['weight_growth']:.1f} times the teacher's, which "
            "are their past: lower SOLVER.BASE_LR"
        )
    return None
