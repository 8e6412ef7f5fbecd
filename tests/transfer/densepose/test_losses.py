"""The four losses and their gradients: golden numbers, and a slow version."""

import math

import numpy as np
import pytest
import torch

from tests.fake_cuda import fake_cuda
from tests.transfer.densepose.cases import (
    MAPS,
    load,
    proposals_of,
    random_outputs,
    random_proposals,
)
from transfer.densepose.chart import ChartOutputs
from transfer.densepose.losses import (
    Grid,
    coarse_target,
    densepose_losses,
    gather_rois,
)

NAMES = [f"loss_densepose_{name}" for name in "UVIS"]
LEGACY = "B"  # the case with the legacy weights and 15 coarse channels, on case A's boxes
WEIGHTS = {"index": 5.0, "part": 1.0, "point": 0.01}
BOXES = [[1, 0, 3], [2, 1], [], [0, 0]]


def golden_losses(case):
    """Losses, outputs and the golden file of one case of densepose_loss."""
    golden = load("loss")
    prefix = "A_" if case == LEGACY else f"{case}_"
    images = [] if case == "H" else proposals_of(golden, prefix)
    boxes = sum(len(image) for image in images)
    suffix = "15" if case == LEGACY else ""
    maps = (golden[f"pred_coarse_segm{suffix}"], *(golden[f"pred_{name}"] for name in MAPS[1:]))
    outputs = ChartOutputs(*(torch.from_numpy(m[:boxes]).requires_grad_() for m in maps))
    point, part, index = golden["weights_legacy" if case == LEGACY else "weights_s1x"]
    return densepose_losses(outputs, images, index, part, point), outputs, golden


@pytest.mark.parametrize("case", "ABCDEFGH")
def test_losses_are_upstreams(case):
    losses, _, golden = golden_losses(case)
    assert list(golden["loss_names"]) == NAMES == list(losses)
    found = [float(losses[name].detach()) for name in NAMES]
    np.testing.assert_allclose(found, golden[f"{case}_losses"], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("case", "field", "name"),
    [*(("A", field, field) for field in MAPS), ("B", "coarse_segm", "coarse_segm15")],
)
def test_gradients_are_upstreams(case, field, name):
    losses, outputs, golden = golden_losses(case)
    sum(losses.values()).backward()
    gradient = getattr(outputs, field).grad
    np.testing.assert_allclose(gradient, golden[f"{case}_grad_{name}"], rtol=0, atol=1e-6)


def test_losses_at_full_size_are_upstreams():
    golden = load("loss_fullsize")
    maps = (golden[f"predq_{field}"].astype(np.float32) / golden["pred_scale"] for field in MAPS)
    losses = densepose_losses(
        ChartOutputs(*map(torch.from_numpy, maps)), proposals_of(golden), **WEIGHTS
    )
    found = [float(losses[name]) for name in golden["loss_names"]]
    np.testing.assert_allclose(found, golden["losses"], rtol=1e-5)


def test_points_are_packed_and_sampled_as_upstream_does():
    golden = load("interp")
    rois = gather_rois(proposals_of(golden))
    for found, name in (
        (rois.roi, "packed_box_index"),
        (rois.owner, "packed_point_annotated_index"),
        (rois.roi[rois.owner], "packed_point_box_index"),
        (rois.chart, "packed_label"),
        *((getattr(rois, name), f"packed_{name}") for name in "xyuv"),
        (rois.truth, "packed_gt_xywh"),
        (rois.proposal, "packed_est_xywh"),
    ):
        np.testing.assert_array_equal(found, golden[name])

    fine, u = torch.from_numpy(golden["map_fine"]), torch.from_numpy(golden["map_u"])
    grid = Grid.of(rois, *fine.shape[-2:])
    np.testing.assert_array_equal(grid.inside, golden["valid"])
    inside = grid.inside.nonzero()[:, 0]
    for axis, end in ((axis, end) for axis in "xy" for end in (0, 1)):
        expected = golden[f"{axis}_{('lo', 'hi')[end]}"]
        np.testing.assert_array_equal(getattr(grid, axis)[inside, end], expected[inside])
    close = {"rtol": 1e-5, "atol": 1e-5}
    values = golden["value_u_at_label"][inside]
    np.testing.assert_allclose(grid.sample_channel(u, inside, rois.chart), values, **close)
    np.testing.assert_allclose(grid.sample(fine, inside), golden["value_fine_all"][inside], **close)


@pytest.mark.parametrize("side", [28, 56, 112])
def test_coarse_masks_are_resampled_as_upstream_does(side):
    golden = load("resample")
    boxes = len(golden["segm"])
    nothing = np.zeros(boxes, dtype=np.float32)
    one_point_each = {f"dp_{name}": nothing for name in "xyIUV"} | {
        "point_offsets": np.arange(boxes + 1),
        "kind": np.ones(boxes),
        "has_segm": np.ones(boxes),
        "image_index": np.zeros(boxes),
        "image_has_densepose_field": [True],
    }
    target = coarse_target(gather_rois(proposals_of(golden | one_point_each)), side)
    stable = golden[f"stable_{side}"]
    np.testing.assert_array_equal(target.numpy()[stable], golden[f"label_{side}"][stable])


def slow_losses(outputs, images, index, part, point):
    """The losses point by point and pixel by pixel."""
    maps = {field: getattr(outputs, field).detach().numpy() for field in MAPS}
    side, channels = maps["u"].shape[-1], maps["coarse_segm"].shape[1]
    sums, scores, coarse, masks_everywhere, box = [0.0, 0.0], [], [], True, 0
    for image in images:
        entries = image.gt_densepose if image.has("gt_densepose") else [None] * len(image)
        boxes = zip(
            image.gt_boxes.tensor.tolist(), image.proposal_boxes.tensor.tolist(), strict=True
        )
        for entry, (g, e) in zip(entries, boxes, strict=True):
            if entry is not None and len(entry.x):
                _add_points(maps, box, entry, g, e, sums, scores)
                masks_everywhere &= entry.segm is not None
                if entry.segm is not None:
                    coarse += _pixels(maps["coarse_segm"][box], entry.segm, g, e, side, channels)
            box += 1
    if not any(label > 0 for label, _ in scores):
        return [0.0] * 4
    return [
        point * sums[0],
        point * sums[1],
        part * _cross_entropy(scores),
        index * _cross_entropy(coarse) if masks_everywhere else 0.0,
    ]


def _add_points(maps, box, entry, g, e, sums, scores):
    side = maps["u"].shape[-1]
    for x, y, chart, u, v in zip(*(getattr(entry, n).tolist() for n in "xyiuv"), strict=True):
        px, py = g[0] + x * (g[2] - g[0]) / 256, g[1] + y * (g[3] - g[1]) / 256
        if not (e[0] <= px < e[2] and e[1] <= py < e[3]):
            continue
        tx, ty = (px - e[0]) * side / (e[2] - e[0]), (py - e[1]) * side / (e[3] - e[1])

        def at(values, tx=tx, ty=ty):
            mixed = 0
            for row, row_weight in _neighbours(ty, side):
                for column, column_weight in _neighbours(tx, side):
                    mixed = mixed + row_weight * column_weight * values[..., row, column]
            return mixed

        scores.append((int(chart), at(maps["fine_segm"][box])))
        if chart > 0:
            for k, (name, truth) in enumerate((("u", u), ("v", v))):
                error = abs(at(maps[name][box, int(chart)]) - truth)
                sums[k] += error**2 / 2 if error < 1 else error - 0.5


def _neighbours(t, side):
    low = min(int(t), side - 1)
    high = min(low + 1, side - 1)
    upper = min(t, high) - low
    return (low, 1 - upper), (high, upper)


def _pixels(scores, segm, g, e, side, channels):
    found = []
    for row in range(side):
        for column in range(side):
            x = (e[0] + column / side * (e[2] - e[0]) - g[0]) / (g[2] - g[0]) * 255
            y = (e[1] + row / side * (e[3] - e[1]) - g[1]) / (g[3] - g[1]) * 255
            x, y = round(x), round(y)
            part = int(segm[y, x]) if 0 <= x <= 255 and 0 <= y <= 255 else 0
            found.append((min(part, 1) if channels == 2 else part, scores[:, row, column]))
    return found


def _cross_entropy(scored):
    terms = [math.log(np.exp(scores).sum()) - scores[label] for label, scores in scored]
    return sum(terms) / len(terms)


@pytest.mark.parametrize("channels", [2, 15])
@pytest.mark.parametrize("kinds", [[[1, 1]], [[1, 0, 1], [1]], BOXES, [[2], [0]]])
def test_losses_equal_a_slow_version(kinds, channels):
    images = random_proposals(0, kinds)
    outputs = random_outputs(1, sum(map(len, kinds)), channels)
    found = [float(loss.detach()) for loss in densepose_losses(outputs, images, **WEIGHTS).values()]
    np.testing.assert_allclose(found, slow_losses(outputs, images, **WEIGHTS), rtol=1e-5)


@pytest.mark.parametrize("kinds", [[], [[]], [[0, 0], [0]], [[2]]])
def test_without_an_annotated_person_every_output_gets_a_zero_gradient(kinds):
    images = random_proposals(0, kinds)
    outputs = random_outputs(0, sum(map(len, kinds)))
    losses = densepose_losses(outputs, images, **WEIGHTS)
    sum(losses.values()).backward()
    for field in MAPS:
        gradient = getattr(outputs, field).grad
        assert torch.equal(gradient, torch.zeros_like(gradient))
    assert all(float(loss.detach()) == 0 for loss in losses.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_raised_to_float32(dtype):
    images = random_proposals(0, [[1]])
    outputs = random_outputs(0, 1, dtype=dtype)
    exact = ChartOutputs(*(getattr(outputs, field).float() for field in MAPS))
    found, expected = (densepose_losses(o, images, **WEIGHTS) for o in (outputs, exact))
    assert found == expected
    assert all(loss.dtype is torch.float32 for loss in found.values())


def test_on_a_gpu_nothing_waits_for_the_number_of_points():
    with fake_cuda() as device:
        images = [image.to("cuda") for image in random_proposals(0, BOXES)]
        rois = gather_rois(images)
    assert rois.owner.device.type == "cuda"
    assert not device.trace.syncs
