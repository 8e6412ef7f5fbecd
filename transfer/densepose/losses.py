"""The four losses of the DensePose head, as upstream's densepose/modeling/losses/chart.py.

Those of U and V are sums over points, those of charts and coarse masks means.
A RoI is a proposal box E of the network's, matched with the ground-truth box G of a person. Points
lie in G, the predicted maps over E. Boxes are x, y, width, height here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from transfer.densepose.annotations import MASK_SIDE
from transfer.densepose.chart import ChartOutputs

TRAINING_SIDE = 256  # of a box in the scale of x and y


@dataclass(frozen=True)
class AnnotatedRois:
    """The A annotated RoIs of a batch and their P points, all RoIs being counted over the batch.

    roi: (A,) int64, which RoIs; truth, proposal: (A, 4) boxes G and E; segm: (A, 256, 256) coarse
    masks, None where a person has none; owner: (P,) int64 among the A; x, y: (P,) in G, 0 to 256;
    chart: (P,) int64, 0 to 24; u, v: (P,) in [0, 1].
    """

    roi: Tensor
    truth: Tensor
    proposal: Tensor
    segm: Tensor | None
    owner: Tensor
    x: Tensor
    y: Tensor
    chart: Tensor
    u: Tensor
    v: Tensor


def gather_rois(proposals: Sequence[Instances]) -> AnnotatedRois | None:
    """The annotated of one batch's kept proposals; None if there are none.

    proposals: per image ``proposal_boxes``, ``gt_boxes`` and, where one is annotated,
    ``gt_densepose``. A person with an empty list of points counts as not annotated.
    """
    rois, annotations, truth, proposal, first = [], [], [], [], 0
    for image in proposals:
        entries = image.gt_densepose if image.has("gt_densepose") else ()
        chosen = [n for n, entry in enumerate(entries) if entry is not None and len(entry.x)]
        if chosen:
            rois += [first + n for n in chosen]
            annotations += [entries[n] for n in chosen]
            truth.append(image.gt_boxes.tensor[chosen])
            proposal.append(image.proposal_boxes.tensor[chosen])
        first += len(image)
    if not rois:
        return None
    device = truth[0].device
    counts = torch.tensor([len(entry.x) for entry in annotations])
    masks = [entry.segm for entry in annotations]
    points = {
        name: torch.cat([getattr(entry, name) for entry in annotations]).to(device)
        for name in ("x", "y", "i", "u", "v")
    }
    return AnnotatedRois(
        roi=torch.tensor(rois, device=device),
        truth=_xywh(torch.cat(truth)),
        proposal=_xywh(torch.cat(proposal)),
        segm=None if any(mask is None for mask in masks) else torch.stack(masks).to(device),
        owner=torch.arange(len(counts)).repeat_interleave(counts).to(device),  # not on a GPU: waits
        chart=points.pop("i").long(),
        **points,
    )


def densepose_losses(
    outputs: ChartOutputs, proposals: Sequence[Instances], index: float, part: float, point: float
) -> dict[str, Tensor]:
    """``loss_densepose_U``, ``_V``, ``_I``, ``_S``: scalars that reach every output's gradient.

    outputs: of the proposals, image by image; half types are raised to float32. Without a point
    inside its proposal that has a chart all four are 0; S alone is 0 where a person has no masks.
    index, part, point: the weights of the coarse masks, of the charts, and of U and V, as in
    MODEL.ROI_DENSEPOSE_HEAD.
    """
    coarse, fine, u, v = (
        maps.float() if maps.dtype in (torch.float16, torch.bfloat16) else maps
        for maps in (outputs.coarse_segm, outputs.fine_segm, outputs.u, outputs.v)
    )
    rois = gather_rois(proposals)
    grid = None if rois is None else Grid.of(rois, *fine.shape[-2:])
    losses = {}
    if grid is not None and (rois.chart[grid.inside] > 0).any():
        on_body = (grid.inside & (rois.chart > 0)).nonzero()[:, 0]
        for name, maps, target in (("U", u, rois.u), ("V", v, rois.v)):
            sampled = grid.sample_channel(maps, on_body, rois.chart)
            error = F.smooth_l1_loss(sampled, target[on_body], reduction="sum")
            losses[name] = point * error
        inside = grid.inside.nonzero()[:, 0]
        scores = grid.sample(fine, inside)
        losses["I"] = part * F.cross_entropy(scores, rois.chart[inside])
        if rois.segm is not None:
            target = coarse_target(rois, coarse.shape[-1])
            if coarse.shape[1] == 2:
                target = target.clamp(max=1)
            losses["S"] = index * F.cross_entropy(coarse[rois.roi], target)
    # What has nothing to learn from still gives every parameter a gradient, as DDP needs it
    for name, maps in zip("UVIS", (u, v, fine, coarse), strict=True):
        if name not in losses:
            losses[name] = 0 * maps.sum()
    return {f"loss_densepose_{name}": losses[name] for name in "UVIS"}


@dataclass(frozen=True)
class Grid:
    """Where P points lie on the maps of their RoIs: four cells each, with bilinear weights.

    roi: (P,) int64; inside: (P,) bool, whether the point is in the proposal box, the only ones that
    the rest is meant for; x, y: (P, 2) int64, lower and upper cell; x_weight, y_weight: (P, 2).
    """

    roi: Tensor
    inside: Tensor
    x: Tensor
    y: Tensor
    x_weight: Tensor
    y_weight: Tensor

    @classmethod
    def of(cls, rois: AnnotatedRois, height: int, width: int) -> Grid:
        """The places on maps of ``height`` by ``width`` cells; a cell's value is at its corner."""
        truth, proposal = rois.truth[rois.owner], rois.proposal[rois.owner]
        columns, x_weight, in_width = _cells(rois.x, truth[:, ::2], proposal[:, ::2], width)
        rows, y_weight, in_height = _cells(rois.y, truth[:, 1::2], proposal[:, 1::2], height)
        return cls(rois.roi[rois.owner], in_width & in_height, columns, rows, x_weight, y_weight)

    def sample(self, maps: Tensor, chosen: Tensor) -> Tensor:
        """All channels of ``maps`` (R, C, H, W) at N chosen points (N,) int64: (N, C)."""
        roi, y, x, weight = self._corners(chosen)
        return (maps[roi, :, y, x] * weight[..., None]).sum(1)

    def sample_channel(self, maps: Tensor, chosen: Tensor, channel: Tensor) -> Tensor:
        """As ``sample``, of each point's own ``channel`` (P,) int64 alone: (N,)."""
        roi, y, x, weight = self._corners(chosen)
        return (maps[roi, channel[chosen][:, None], y, x] * weight).sum(1)

    def _corners(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """RoI (N, 1), rows and columns (N, 4) of four cells each, and their weights (N, 4)."""
        y, x = self.y[chosen].repeat_interleave(2, 1), self.x[chosen].repeat(1, 2)
        y_weight = self.y_weight[chosen].repeat_interleave(2, 1)
        return self.roi[chosen][:, None], y, x, y_weight * self.x_weight[chosen].repeat(1, 2)


def _cells(
    position: Tensor, truth: Tensor, proposal: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower and upper cell (P, 2), their weights (P, 2) and whether inside (P,), on one axis.

    position: (P,) in the ground-truth box, 0 to 256; truth, proposal: (P, 2) start and length.
    """
    pixel = truth[:, 0] + position * truth[:, 1] / TRAINING_SIDE
    offset = pixel - proposal[:, 0]
    inside = (offset >= 0) & (offset < proposal[:, 1])
    place = offset * size / proposal[:, 1]
    low = place.floor().clamp(0, size - 1)
    high = (low + 1).clamp(max=size - 1)
    upper = torch.minimum(place, high) - low
    return torch.stack([low, high], 1).long(), torch.stack([1 - upper, upper], 1), inside


def coarse_target(rois: AnnotatedRois, size: int) -> Tensor:
    """The coarse masks (A, size, size) int64, 0 to 14, as seen from the proposal boxes.

    A cell takes the nearest pixel of the mask to its left upper corner; 0 outside.
    """
    columns, in_width = _nearest(rois.truth[:, ::2], rois.proposal[:, ::2], size)
    rows, in_height = _nearest(rois.truth[:, 1::2], rois.proposal[:, 1::2], size)
    person = torch.arange(len(rois.segm), device=rois.segm.device)[:, None, None]
    target = rois.segm[person, rows[:, :, None], columns[:, None, :]]
    return (target * (in_height[:, :, None] & in_width[:, None, :])).long()


def _nearest(truth: Tensor, proposal: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Nearest mask index (A, size) of each cell on one axis, clamped, and whether there is one."""
    cells = torch.arange(size, device=truth.device) / size
    pixel = proposal[:, :1] + cells * proposal[:, 1:]
    place = ((pixel - truth[:, :1]) / truth[:, 1:] * (MASK_SIDE - 1)).round()
    return place.clamp(0, MASK_SIDE - 1).long(), (place >= 0) & (place <= MASK_SIDE - 1)


def _xywh(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
