"""Proposals with annotated persons, from golden files and drawn at random."""

from itertools import pairwise

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from transfer.densepose.annotations import Annotation, Annotations
from transfer.densepose.chart import ChartOutputs

MAPS = ("coarse_segm", "fine_segm", "u", "v")
SIZE = (200, 300)  # of an image, which nothing depends on


def annotation(points, segm=None):
    """points: x, y, I, U, V, each (K,)."""
    x, y, i, u, v = (torch.as_tensor(values, dtype=torch.float32) for values in points)
    segm = None if segm is None else torch.as_tensor(segm, dtype=torch.float32)
    return Annotation(x=x, y=y, i=i, u=u, v=v, segm=segm)


def annotations_of(golden, prefix=""):
    """One entry per box of a golden file, None for persons without DensePose."""
    entries = []
    ends = golden[f"{prefix}point_offsets"]
    masks = golden.get(f"{prefix}segm", np.zeros((len(ends), 256, 256)))  # absent: all zero
    for box, (first, end) in enumerate(pairwise(ends)):
        points = [golden[f"{prefix}dp_{name}"][first:end] for name in "xyIUV"]
        segm = masks[box] if golden[f"{prefix}has_segm"][box] else None
        entries.append(annotation(points, segm) if golden[f"{prefix}kind"][box] else None)
    return entries


def proposals_of(golden, prefix=""):
    """The boxes of a golden file as kept proposals, one Instances per image."""
    entries, images = annotations_of(golden, prefix), []
    for image, has_field in enumerate(golden[f"{prefix}image_has_densepose_field"]):
        chosen = np.flatnonzero(golden[f"{prefix}image_index"] == image)
        boxes = [golden[f"{prefix}{kind}_boxes"][chosen] for kind in ("proposal", "gt")]
        images.append(proposals(*boxes, [entries[n] for n in chosen] if has_field else None))
    return images


def proposals(proposal_boxes, gt_boxes, entries=None, gt_classes=None):
    """One image's; boxes (n, 4) x0, y0, x1, y1; no field for DensePose without ``entries``."""
    image = Instances(SIZE)
    image.proposal_boxes = Boxes(torch.as_tensor(proposal_boxes).reshape(-1, 4))
    image.gt_boxes = Boxes(torch.as_tensor(gt_boxes).reshape(-1, 4))
    classes = torch.zeros(len(image.gt_boxes)) if gt_classes is None else gt_classes
    image.gt_classes = torch.as_tensor(classes).long()
    if entries is not None:
        image.gt_densepose = Annotations(entries)
    return image


def random_proposals(seed, kinds, points=20):
    """One image per list of ``kinds``: for each box 0 None, 1 annotated, 2 no points, 3 no masks.

    Proposals cover their persons' boxes in part; points lie anywhere in these.
    """
    rng = np.random.default_rng(seed)
    images = []
    for image_kinds in kinds:
        corner = rng.uniform(0, 60, (len(image_kinds), 2))
        truth = np.concatenate([corner, corner + rng.uniform(40, 90, corner.shape)], 1)
        proposal = truth + rng.uniform(-8, 8, truth.shape)
        entries = []
        for kind in image_kinds:
            count = 0 if kind == 2 else points
            values = [rng.uniform(0, 256, count), rng.uniform(0, 256, count)]
            values += [rng.integers(0, 25, count), rng.random(count), rng.random(count)]
            segm = None if kind == 3 else rng.integers(0, 15, (8, 8)).repeat(32, 0).repeat(32, 1)
            entries.append(annotation(values, segm) if kind else None)
        boxes = [box.astype(np.float32) for box in (proposal, truth)]
        images.append(proposals(*boxes, entries if any(image_kinds) else None))
    return images


def random_outputs(seed, boxes, coarse_channels=2, side=6, dtype=torch.float64):
    """Maps for so many boxes, which require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return ChartOutputs(
        *(
            torch.randn(
                boxes, channels, side, side, dtype=dtype, generator=generator, requires_grad=True
            )
            for channels in (coarse_channels, 25, 25, 25)
        )
    )
