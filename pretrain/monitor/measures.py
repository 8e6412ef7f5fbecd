"""What a pretraining has learnt, told by its own embeddings of fixed views: no labels are read.

The loss says little: it starts near 100 and moves by less than one. These numbers have a scale:
chance, the network before training, and what a collapsed embedding would give.
"""

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.methods.clove import CLoVE, positive_cells

STATISTICS_VIEWS = 16  # global views that tell BN statistics well enough for pictures
COLLAPSED_SPREAD = 0.3  # embedding_spread below it: the cells' embeddings are nearly one
COLLAPSED_RANK = 2.0  # effective_rank below it: they lie along one line
RUNAWAY_GROWTH = 1.5  # weight_growth above it: steps as long as the weights themselves


@torch.no_grad()
def measure(
    model: CLoVE, global_crops: Tensor, boxes: Tensor, positive_radius: float
) -> dict[str, float]:
    """The monitors of ``model`` on global views (2,B,3,S,S), normalized, with boxes (2,B,4).

    Networks run as in training, on the views' own BN statistics; the running ones stay as they
    are. ``match_rate``: share of the student's cells with a positive whose most similar teacher
    cell is one, beside ``match_chance``. Cosines between student and teacher: ``random_similarity``
    of cells of different images. ``embedding_spread``: std of the embeddings' entries times √D, 1
    when they point everywhere. ``effective_rank``: RankMe (arXiv 2210.02885), 1 to D.
    ``weight_growth``: norm of the student's weights over the teacher's, which are their past. For
    every head of the attention: its entropy, 1 when all cells weigh the same, and the mean distance
    in cells at which it looks.
    """
    with _kept(model):
        projected, teachers = project(model.train(), global_crops.flatten(0, 1))
        students = model.contextualize(projected).float().unflatten(0, (2, -1))
        teachers = F.normalize(teachers.float(), dim=1).unflatten(0, (2, -1))
        weights = attention_weights(model, projected)
    with torch.autocast(boxes.device.type, enabled=False):  # in float32, as the loss
        return _describe(model, students, teachers, weights, boxes, positive_radius)


def _describe(
    model: CLoVE,
    students: Tensor,
    teachers: Tensor,
    weights: Tensor,
    boxes: Tensor,
    positive_radius: float,
) -> dict[str, float]:
    """The monitors of unit maps (2,B,D,H,W) and of attention (2·B,heads,H·W,H·W)."""
    flat = students.flatten(0, 1)
    statistics = model.multicrop_loss(flat, flat[:0], teachers.flatten(0, 1), boxes)[1]
    teachers = teachers.flip(0)  # every view against the other one
    found, among, chance = matches(students, teachers, boxes, boxes.flip(0), positive_radius)
    cells = students.flatten(3).movedim(2, -1).flatten(0, 2)  # (2·B·L,D)
    entropies, distances = attention_statistics(weights, *students.shape[3:])
    values = {name: value.item() for name, value in statistics.items()}
    values.pop("embedding_std")
    return {
        "match_rate": found / max(among, 1),
        "match_chance": chance / max(among, 1),
        **values,
        "random_similarity": _similarity_of_others(students, teachers),
        "embedding_spread": cells.std(dim=0).mean().item() * math.sqrt(cells.shape[1]),
        "effective_rank": effective_rank(cells),
        "weight_growth": _norm(model.student) / _norm(model.teacher),
        **{f"attention_entropy_{head}": value for head, value in enumerate(entropies)},
        **{f"attention_distance_{head}": value for head, value in enumerate(distances)},
    }


def matches(
    students: Tensor, teachers: Tensor, boxes: Tensor, teacher_boxes: Tensor, radius: float
) -> tuple[float, float, float]:
    """Cells whose best match is a positive, cells that have a positive, and what chance would find.

    students and teachers (V,B,D,H,W), view by view against each other; boxes (V,B,4).
    """
    found = among = chance = 0.0
    for student, teacher, box, teacher_box in zip(
        students, teachers, boxes, teacher_boxes, strict=True
    ):
        is_positive = positive_cells(student, teacher, box, teacher_box, radius)  # (B,Ls,Lt)
        similarity = torch.einsum("bds,bdt->bst", student.flatten(2), teacher.flatten(2))
        best = similarity.argmax(dim=2, keepdim=True)
        share = is_positive.float().mean(dim=2)
        found += is_positive.gather(2, best).sum().item()
        among += (share > 0).sum().item()
        chance += share.sum().item()
    return found, among, chance


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the singular values' shares (RankMe), of embeddings (N,D).

    NaN where an embedding is not finite.
    """
    if not torch.isfinite(embeddings).all():
        return math.nan
    values = torch.linalg.svdvals(embeddings.double())
    shares = values / values.sum() + 1e-7
    return torch.exp(-(shares * shares.log()).sum()).item()


def _norm(network: nn.Module) -> float:
    """Of all weights; BN's scales and biases, which LARS does not adapt, are left out."""
    weights = [parameter.detach() for parameter in network.parameters() if parameter.ndim > 1]
    return torch.stack(torch._foreach_norm(weights)).norm().item()


@contextlib.contextmanager
def statistics_of(model: CLoVE, crops: Tensor) -> Iterator[None]:
    """Within, ``model`` is in eval mode and BN normalizes as for ``crops`` (N,3,S,S), normalized.

    The student's running statistics blend global and local crops (clove.md 5), so those of both
    networks are computed anew from global ones, in one pass. Afterwards all is as it was. Under
    SyncBN every rank must enter; in eval mode ranks do not wait for each other.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    with _kept(model):
        try:
            for norm in norms:
                norm.momentum = 1.0  # what this batch has takes the place of what was
            with torch.no_grad():
                project(model.train(), crops)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        model.eval()
        yield


@contextlib.contextmanager
def _kept(model: CLoVE) -> Iterator[None]:
    """Buffers and mode are afterwards what they were before."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    training = model.training
    try:
        yield
    finally:
        model.train(training)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])


def project(model: CLoVE, crops: Tensor) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's projected maps, (N,D,H,W)."""
    # Part by part: networks that torch.compile changed would be compiled anew for a few images
    student = model.student.projector(model.student.encoder(crops))
    return student, model.teacher.projector(model.teacher.encoder(crops))


def attention_weights(model: CLoVE, maps: Tensor) -> Tensor:
    """How much each cell looks at each other: maps (N,D,H,W) → (N,heads,H·W,H·W)."""
    tokens = maps.flatten(2).transpose(1, 2)
    if model.attention is None:
        return tokens.new_zeros(len(tokens), 0, tokens.shape[1], tokens.shape[1]).float()
    return model.attention(tokens, tokens, tokens, average_attn_weights=False)[1].float()


def attention_statistics(weights: Tensor, height: int, width: int) -> tuple[list, list]:
    """Entropy over its largest value, and mean distance in cells, of each head of (N,heads,L,L)."""
    most = math.log(max(weights.shape[-1], 2))
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(dim=-1) / most
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).flatten(0, 1).to(weights)  # (L,2)
    distance = (weights * torch.cdist(places, places)).sum(dim=-1)
    return entropy.mean(dim=(0, 2)).tolist(), distance.mean(dim=(0, 2)).tolist()


def _similarity_of_others(students: Tensor, teachers: Tensor) -> float:
    """Mean cosine between cells of one image and of the next, of (V,B,D,H,W)."""
    means = [maps.flatten(3).mean(dim=3) for maps in (students, teachers.roll(1, dims=1))]
    return (means[0] * means[1]).sum(dim=-1).mean().item()  # the mean of all products of cells


def warning(values: dict[str, float]) -> str | None:
    """What is wrong with a run whose monitors say ``values``; None when nothing is."""
    if not all(math.isfinite(value) for value in values.values()):
        return "a monitor is not finite: the run has diverged; lower SOLVER.BASE_LR"
    if values["embedding_spread"] < COLLAPSED_SPREAD or values["effective_rank"] < COLLAPSED_RANK:
        return (
            f"the embedding has collapsed (spread {values['embedding_spread']:.2f} of 1, effective "
            f"rank {values['effective_rank']:.1f}): lower SOLVER.BASE_LR, or look at the data"
        )
    if values["weight_growth"] > RUNAWAY_GROWTH:
        return (
            f"the student's weights are {values['weight_growth']:.1f} times the teacher's, which "
            "are their past: lower SOLVER.BASE_LR"
        )
    return None
