"""From maps to pixels: golden labels and coordinates."""

import numpy as np
import pytest
import torch

from tests.transfer.densepose.cases import MAPS, load
from transfer.densepose.chart import ChartOutputs
from transfer.densepose.inference import labels_and_uv, pixel_box, quantize

GOLDEN = load("postprocess")
BOXES = [(head, box) for head in ("s1x", "legacy") for box in range(len(GOLDEN[f"{head}_boxes"]))]


def predicted(head, box):
    """Box, labels and coordinates of one golden detection."""
    maps = (
        GOLDEN[f"{head}_{field}_q"].astype(np.float32) / GOLDEN[f"{head}_{field}_scale"]
        for field in MAPS
    )
    outputs = ChartOutputs(*(torch.from_numpy(m)[None] for m in maps))
    box = torch.from_numpy(GOLDEN[f"{head}_boxes"][box])
    return box, *labels_and_uv(outputs, box)


@pytest.mark.parametrize(("head", "number"), BOXES)
def test_labels_and_coordinates_are_upstreams(head, number):
    golden = {
        name.removeprefix(f"{head}_box{number}_"): value
        for name, value in GOLDEN.items()
        if name.startswith(f"{head}_box{number}_")
    }
    box, labels, uv = predicted(head, number)
    clear = ~golden["ambiguous"]
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels.numpy()[clear], golden["labels"][clear])
    if "uv" in golden:
        np.testing.assert_allclose(uv.numpy()[:, clear], golden["uv"][:, clear], atol=1e-5)
    compact = quantize(labels, uv)
    assert compact.dtype is torch.uint8
    error = compact.numpy().astype(int) - golden["quantized"]
    assert np.abs(error[:, clear]).max() <= 1

    height, width = GOLDEN["image_size_hw"]
    bits = np.unpackbits(golden["image_mask"], count=height * width)
    x, y, w, h = pixel_box(box)
    if (box[2:] - box[:2] >= 1).all():  # a smaller one pastes nothing
        mask = np.zeros((height, width), dtype=bool)
        mask[y : y + h, x : x + w] = (labels > 0).numpy()[: height - y, : width - x]
        assert (mask != bits.reshape(height, width)).sum() <= (~clear).sum()
    else:
        assert not bits.any()


def test_a_label_needs_both_a_person_and_a_chart():
    coarse, fine = torch.zeros(1, 2, 2, 2), torch.zeros(1, 25, 2, 2)
    coarse[0, 1, 0, :] = 1  # the upper row is person
    fine[0, 7, :, 0] = 1  # the left column is of chart 7, the right one background
    u, v = torch.full((1, 25, 2, 2), 0.25), torch.full((1, 25, 2, 2), -1.5)
    labels, uv = labels_and_uv(ChartOutputs(coarse, fine, u, v), torch.tensor([0.0, 0, 2, 2]))
    assert labels.tolist() == [[7, 0], [0, 0]]
    assert uv[:, 0, 0].tolist() == [0.25, -1.5]
    assert uv.abs().sum() == 1.75
    assert quantize(labels, uv)[:, 0, 0].tolist() == [7, 63, 0]
