"""CLoVE: contextualized local visual embeddings (arXiv 2310.00527; sthalles/CLoVE@d706573).

A student sees all crops, a momentum teacher the two global ones. The student's cells, put in
context by self-attention, must match the teacher's cells at the same place, and no other.

Where this differs from the released code, and why no number changes by it:
- The teacher's pass comes before the student's, so that its activations are gone when the student's
  are kept for the backward pass. The teacher is updated before either, from the same weights.
- The attention's weights are not asked for, so that a fused kernel can serve.
- Any number of local crops may be given; there, it is 6 by its code.
"""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PairStats(NamedTuple):
    """What one pair of views gives for each image; every field is (B,)."""

    loss: Tensor
    positive: Tensor  # P_n: mean of −2cos over the positive pairs of cells, 0 without any
    negative: Tensor  # N_n: mean of −2cos over the kept negatives, +inf where overfull
    num_positives: Tensor  # int64
    overfull: Tensor  # bool: a student cell has too few negatives; loss and gradient are 0


def pair_statistics(
    student: Tensor,
    teacher: Tensor,
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    *,
    gamma: float = 2.0,
    margin: float = 100.0,
    positive_radius: float = 0.7,
    num_negatives: int = 9,
    num_skipped: int = 1,
) -> PairStats:
    """The loss of one student view against one teacher view, per image.

    Pulls the positive pairs of cells together and pushes, for every student cell, the
    ``num_negatives`` most similar negatives that follow the ``num_skipped`` most similar ones.
    student (B,D,Hs,Ws), teacher (B,D,Ht,Wt): unit length over D. Boxes (B,4): x0, y0, x1, y1 in the
    source image, x0 > x1 for a flipped view. Half types are raised to float32. Students (V,B,...)
    with boxes (V,B,4) are V views at once, and every field is (V,B). Raises ValueError when the
    teacher's map has fewer than ``num_negatives + num_skipped`` cells.
    """
    student, teacher = _at_least_float32(student), _at_least_float32(teacher)
    num_similar = num_negatives + num_skipped
    if (cells := teacher.shape[-2:].numel()) < num_similar:
        raise ValueError(
            f"a teacher map of {cells} cells has no {num_similar} negatives: use larger global "
            "crops (97 px or more for 10) or a smaller METHOD.NUM_NEGATIVES"
        )
    is_positive = positive_cells(student, teacher, student_boxes, teacher_boxes, positive_radius)
    num_positives = is_positive.sum(dim=(-2, -1))

    cosine = torch.einsum("...ds,...dt->...st", student.flatten(-2), teacher.flatten(-2))
    # The count is float32, as in the released code: from 32 positives on, 1e-6 vanishes in rounding
    positive = -2 * (cosine * is_positive).sum(dim=(-2, -1)) / (num_positives.float() + 1e-6)

    hardest = cosine.masked_fill_(is_positive, -torch.inf).topk(num_similar).values
    negative = -2 * hardest[..., num_skipped:].mean(dim=(-2, -1))
    loss = F.relu(margin - negative + gamma * positive)
    return PairStats(loss, positive, negative, num_positives, negative.isinf())


def positive_cells(
    student: Tensor, teacher: Tensor, student_boxes: Tensor, teacher_boxes: Tensor, radius: float
) -> Tensor:
    """Which cells of the two maps lie at the same place, bool (...,B,Ls,Lt).

    Those whose centres are less than ``radius`` diagonals of the larger cell apart. Boxes (...,B,4)
    as for ``pair_statistics``, in one unit for both maps; float32 or wider is kept.
    """
    x, y, diagonal = _cells(student_boxes, *student.shape[-2:])
    teacher_x, teacher_y, teacher_diagonal = _cells(teacher_boxes, *teacher.shape[-2:])
    # (...,B,Ls,1) − (B,1,Lt) → (...,B,Ls,Lt)
    distance = torch.hypot(x[..., None] - teacher_x[:, None], y[..., None] - teacher_y[:, None])
    distance = distance / torch.maximum(diagonal, teacher_diagonal)[..., None, None]
    return distance < radius  # a degenerate pair has distance NaN: not a positive


def multicrop_loss(
    global_students: Tensor, local_students: Tensor, global_teachers: Tensor, boxes: Tensor, **same
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss over the 2·(1+V) pairs of different views, and detached statistics.

    global_students and global_teachers (2B,D,H,W), local_students (V·B,D,h,w), possibly of 0 rows:
    view-major, unit length over D. boxes (2+V,B,4). ``same``: as for ``pair_statistics``.
    """
    teachers = global_teachers.chunk(2)
    maps = local_students.unflatten(0, (-1, boxes.shape[1]))
    pairs = [pair_statistics(maps, teachers[k], boxes[2:], boxes[k], **same) for k in (0, 1)]
    for k, maps in enumerate(global_students.chunk(2)):
        pairs.append(pair_statistics(maps, teachers[1 - k], boxes[k], boxes[1 - k], **same))
    # Every pair has B images, so the mean over all of them weighs the pairs equally
    loss, *rest = (torch.cat([x.flatten() for x in field]) for field in zip(*pairs, strict=True))
    positive, negative, num_positives, overfull = (field.detach() for field in rest)
    center = _at_least_float32(global_students.detach()).mean(dim=(0, 2, 3))
    return loss.mean(), {
        "positive_similarity": _mean_where(num_positives > 0, -positive / 2),
        "negative_similarity": _mean_where(~overfull, -negative / 2),
        # Of unit vectors, in the mean over D: 1/√D when spread evenly, 0 at collapse
        "embedding_std": ((1 - center.square().sum()) / len(center)).clamp(min=0).sqrt(),
        "no_positive_share": (num_positives == 0).float().mean(),
        "overfull_share": overfull.float().mean(),
    }


def joined(views: Sequence[Tensor]) -> Tensor:
    """V views of (B,3,S,S) → (V·B,3,S,S); without a copy where they are one tensor."""
    return views.flatten(0, 1) if isinstance(views, Tensor) else torch.cat(tuple(views))


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    return values.where(mask, 0).sum() / mask.sum().clamp(min=1)


def _cells(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cell centres x and y (...,H·W), row-major, and the cells' diagonals (...)."""
    x0, y0, x1, y1 = _at_least_float32(boxes)[..., None, None].unbind(dim=-3)  # each (...,1,1)
    cell_width, cell_height = (x1 - x0) / width, (y1 - y0) / height  # signed: flips run backwards
    x = x0 + (torch.arange(width, device=boxes.device) + 0.5) * cell_width  # (...,1,W)
    y = y0 + (torch.arange(height, device=boxes.device)[:, None] + 0.5) * cell_height  # (...,H,1)
    x, y = (centers.flatten(-2) for centers in torch.broadcast_tensors(x, y))
    return x, y, torch.sqrt(cell_width**2 + cell_height**2)[..., 0, 0]


class CLoVE(nn.Module):
    """Student, contextualizing self-attention and momentum teacher.

    encoder: images (B,3,S,S) → maps (B,``encoder.channels``,H,W). The keyword arguments are the
    keys of a config's METHOD; defaults are the paper's. hidden: channels between the projector's
    two layers. dim: D, width of the embeddings. heads: of the self-attention; 0 leaves it out, as
    an ablation: cells then know no context. The others are those of ``pair_statistics``.
    Raises ValueError where ``dim`` is no multiple of ``heads``.
    """

    boxes = "centers"  # normalized over pixel centres: augment.crop_box
    exported = "student"  # the network whose encoder is converted
    synchronize_bn = True
    zero_last_gamma = True  # of every residual block
    compiled = ("student", "teacher", "multicrop_loss")

    def __init__(
        self,
        encoder: nn.Module,
        *,
        hidden: int = 4096,
        dim: int = 256,
        heads: int = 8,
        gamma: float = 2.0,
        margin: float = 100.0,
        positive_radius: float = 0.7,
        num_negatives: int = 9,
        num_skipped: int = 1,
    ) -> None:
        if heads < 0 or (heads and dim % heads):
            raise ValueError(f"DIM {dim} is not a multiple of HEADS {heads}, which is 0 for none")
        super().__init__()
        projector = OrderedDict(
            linear1=nn.Conv2d(encoder.channels, hidden, 1, bias=False),
            bn1=nn.BatchNorm2d(hidden),
            relu=nn.ReLU(inplace=True),
            linear2=nn.Conv2d(hidden, dim, 1, bias=False),
            bn2=nn.BatchNorm2d(dim, affine=False),
        )
        projector = nn.Sequential(projector)
        self.student = nn.Sequential(OrderedDict(encoder=encoder, projector=projector))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True) if heads else None
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.min_cells = num_negatives + num_skipped  # of a global crop's map
        self.positive_radius, self.margin = positive_radius, margin
        self.multicrop_loss = partial(
            multicrop_loss,
            gamma=gamma,
            margin=margin,
            positive_radius=positive_radius,
            num_negatives=num_negatives,
            num_skipped=num_skipped,
        )

    def forward(
        self,
        global_crops: Sequence[Tensor],
        local_crops: Sequence[Tensor],
        boxes: Tensor,
        teacher_momentum: float | None = None,
    ) -> dict[str, Tensor]:
        """Contextualized student maps must match the teacher's where the views overlap.

        global_crops: 2 of (B,3,S,S); local_crops: V of (B,3,s,s), V may be 0. boxes (2+V,B,4): crop
        corners x0, y0, x1, y1 in the source image; x0 > x1 when flipped. A float
        ``teacher_momentum`` updates the teacher first. Returns the loss and detached statistics.
        """
        if teacher_momentum is not None:
            self.update_teacher(teacher_momentum)
        global_crops = joined(global_crops)
        with torch.no_grad():  # no attention on this side
            targets = self.teacher(global_crops)
            targets = F.normalize(_at_least_float32(targets), dim=1)
        # One pass per resolution, so that BN never mixes the two: 2×(B,3,224,224) → (2B,D,7,7)
        global_students = self.contextualize(self.student(global_crops))
        local_students = global_students[:0]
        if len(local_crops):  # 6×(B,3,96,96) → (6B,D,3,3)
            local_students = self.contextualize(self.student(joined(local_crops)))
        with torch.autocast(boxes.device.type, enabled=False):
            loss, statistics = self.multicrop_loss(global_students, local_students, targets, boxes)
        statistics["loss_minus_margin"] = loss.detach() - self.margin
        return {"loss": loss, **statistics}

    def contextualize(self, maps: Tensor) -> Tensor:
        """Normalized multi-head self-attention over the cells: (B,D,H,W) → unit (B,D,H,W)."""
        tokens = maps.flatten(2).transpose(1, 2)  # (B,H·W,D)
        if self.attention is not None:
            tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return F.normalize(_at_least_float32(tokens).transpose(1, 2).reshape(maps.shape), dim=1)

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the monitors look at: unit maps (N,D,H,W) of student and teacher, of (N,3,S,S)."""
        student = self.contextualize(self.student(images))
        return student, F.normalize(_at_least_float32(self.teacher(images)), dim=1)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """θ_t ← m·θ_t + (1−m)·θ_s on parameters; the teacher's BN statistics are its own."""
        teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
        torch._foreach_mul_(teacher, momentum)
        torch._foreach_add_(teacher, student, alpha=1 - momentum)

    def load_released(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a released checkpoint's ``model``, of 660 entries; else RuntimeError.

        Its keys: ``module.encoder``, ``module.projector`` and ``module.self_attn`` of the student,
        ``module.encoder_k`` and ``module.projector_k`` of the teacher.
        """
        renamed = {}
        for key, value in state_dict.items():
            module, _, rest = key.removeprefix("module.").partition(".")
            network = "teacher" if module.endswith("_k") else "student"
            part = f"{network}.{module.removesuffix('_k')}"
            renamed[f"{'attention' if module == 'self_attn' else part}.{rest}"] = value
        self.load_state_dict(renamed)
