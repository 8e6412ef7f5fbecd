"""From a detection's maps to the labels and chart coordinates of its pixels (section 9)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from transfer.densepose.chart import ChartOutputs


def pixel_box(box: Tensor) -> tuple[int, int, int, int]:
    """The pixels x, y, width, height of a box (4,) x0, y0, x1, y1: truncated, 1 wide at least."""
    x0, y0, x1, y1 = box.float()
    width, height = max(int(x1 - x0), 1), max(int(y1 - y0), 1)
    return int(x0), int(y0), width, height


def labels_and_uv(outputs: ChartOutputs, box: Tensor) -> tuple[Tensor, Tensor]:
    """Chart (h, w) int64, 0 to 24, and U, V (2, h, w) float32, not clamped, of a box's pixels.

    outputs: of one detection, (1, C, S, S) each; box: (4,) x0, y0, x1, y1 in px of the image.
    """
    _, _, width, height = pixel_box(box)
    coarse, fine, u, v = (
        F.interpolate(maps.float(), (height, width), mode="bilinear")[0]
        for maps in (outputs.coarse_segm, outputs.fine_segm, outputs.u, outputs.v)
    )
    labels = fine.argmax(0) * (coarse.argmax(0) > 0)
    uv = torch.stack([maps.gather(0, labels[None])[0] for maps in (u, v)])
    return labels, uv.where(labels > 0, 0)


def quantize(labels: Tensor, uv: Tensor) -> Tensor:
    """The compact form (3, h, w) uint8: the label, and U, V from 0 to 255, truncated."""
    return torch.cat([labels[None], (255 * uv).clamp(0, 255)]).to(torch.uint8)
