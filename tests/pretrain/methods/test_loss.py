"""The loss: golden numbers of the released code, and equality with a slow version of it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.methods.clove import multicrop_loss, pair_statistics

GOLDEN = Path(__file__).parents[2] / "golden"
PAIRS = sorted(set(GOLDEN.glob("loss_*.npz")) - {GOLDEN / "loss_multicrop_total.npz"})


def load(path, dtype, *names):
    with np.load(path) as file:
        tensors = [torch.from_numpy(file[name]) for name in names]
        scalars = {name: file[name] for name in file.files}
    return [t.to(dtype).requires_grad_(t.ndim == 4) for t in tensors], scalars


def slow_pair(student, teacher, student_box, teacher_box, gamma, margin, radius, kept, skipped):
    """One image, cell by cell, as the released contrast/loss.py does; plain Python floats."""

    def centers(box, height, width):
        x0, y0, x1, y1 = (float(v) for v in box)
        w, h = (x1 - x0) / width, (y1 - y0) / height
        cells = [
            (x0 + (c + 0.5) * w, y0 + (r + 0.5) * h) for r in range(height) for c in range(width)
        ]
        return cells, math.sqrt(w * w + h * h)

    a_centers, a_diagonal = centers(student_box, *student.shape[1:])
    b_centers, b_diagonal = centers(teacher_box, *teacher.shape[1:])
    a_cells, b_cells = student.flatten(1).T.double(), teacher.flatten(1).T.double()
    positives, negatives = [], []
    for a, a_center in zip(a_cells, a_centers, strict=True):
        others = []
        for b, b_center in zip(b_cells, b_centers, strict=True):
            score = -2 * float(a @ b)
            if math.dist(a_center, b_center) / max(a_diagonal, b_diagonal) < radius:
                positives.append(score)
                others.append(math.inf)
            else:
                others.append(score)
        kept_scores = sorted(others)[skipped : skipped + kept]
        negatives.append(sum(kept_scores) / kept)
    positive = sum(positives) / (len(positives) + 1e-6)
    negative = sum(negatives) / len(negatives)
    return max(0.0, margin - negative + gamma * positive), positive, negative, len(positives)


def random_case(seed, batch=4, dim=8, student_size=(3, 4), teacher_size=(5, 4)):
    generator = torch.Generator().manual_seed(seed)

    def maps(size):
        return F.normalize(torch.randn(batch, dim, *size, generator=generator).double(), dim=1)

    def boxes():
        low, high = torch.rand(2, batch, 2, generator=generator).double().sort(dim=0).values
        box = torch.cat([low * 0.6, 0.4 + high * 0.6], dim=1)
        box[1::2] = box[1::2][:, [2, 1, 0, 3]]  # every second view is flipped
        return box

    return maps(student_size), maps(teacher_size), boxes(), boxes()


@pytest.mark.parametrize("path", PAIRS, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pair_equals_the_released_code(path, dtype):
    (q, k), golden = load(path, dtype, "q", "k")
    boxes = [torch.from_numpy(golden[name]) for name in ("coord_q", "coord_k")]
    hyper = {
        "gamma": float(golden["gamma"]),
        "margin": float(golden["margin"]),
        "positive_radius": float(golden["pos_ratio"]),
    }
    stats = pair_statistics(q, k, *boxes, **hyper)
    stats.loss.mean().backward()
    double = dtype == torch.float64
    close = {"rtol": 0, "atol": 1e-9 if double else 3e-5}
    np.testing.assert_array_equal(stats.num_positives, golden["n_pos"])
    np.testing.assert_array_equal(stats.overfull, np.isinf(golden["negatives"]))
    np.testing.assert_allclose(stats.loss.detach(), golden["loss_per_sample"], **close)
    np.testing.assert_allclose(stats.positive.detach(), golden["positives"], **close)
    np.testing.assert_allclose(stats.negative.detach(), golden["negatives"], **close)
    gradient = 1e-9 if double else 5e-8
    np.testing.assert_allclose(q.grad, golden["grad_q"], rtol=0, atol=gradient)
    np.testing.assert_allclose(k.grad, golden["grad_k"], rtol=0, atol=gradient)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_multicrop_total_equals_the_released_code(dtype):
    maps = ("gl_sa_maps", "lo_sa_maps", "gl_projs_ng")
    tensors, golden = load(GOLDEN / "loss_multicrop_total.npz", dtype, *maps)
    loss, statistics = multicrop_loss(*tensors, torch.from_numpy(golden["coords"]))
    loss.backward()
    double = dtype == torch.float64
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=0, abs=1e-9 if double else 3e-5)
    for name, tensor in zip(maps, tensors, strict=True):
        np.testing.assert_allclose(
            tensor.grad, golden[f"grad_{name}"], rtol=0, atol=1e-9 if double else 5e-8
        )
    no_positive = (golden["pair_n_pos"] == 0).mean()
    assert statistics["no_positive_share"].item() == pytest.approx(no_positive)
    assert not any(value.requires_grad for value in statistics.values())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("kept", "skipped", "radius"), [(9, 1, 0.7), (4, 0, 1.2), (1, 3, 0.3)])
def test_pair_equals_the_formula_cell_by_cell(seed, kept, skipped, radius):
    student, teacher, student_boxes, teacher_boxes = random_case(seed)
    stats = pair_statistics(
        student,
        teacher,
        student_boxes,
        teacher_boxes,
        gamma=1.5,
        margin=3.0,
        positive_radius=radius,
        num_negatives=kept,
        num_skipped=skipped,
    )
    for n in range(len(student)):
        expected = slow_pair(
            student[n],
            teacher[n],
            student_boxes[n],
            teacher_boxes[n],
            1.5,
            3.0,
            radius,
            kept,
            skipped,
        )
        actual = [stats.loss[n], stats.positive[n], stats.negative[n], stats.num_positives[n]]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_locals", [0, 1, 3])
def test_multicrop_is_the_mean_over_pairs_of_different_views(num_locals):
    torch.manual_seed(num_locals)
    batch, dim = 3, 8
    students = F.normalize(torch.randn(2 * batch, dim, 4, 4).double(), dim=1)
    teachers = F.normalize(torch.randn(2 * batch, dim, 4, 4).double(), dim=1)
    local_students = F.normalize(torch.randn(num_locals * batch, dim, 2, 2).double(), dim=1)
    boxes = torch.rand(2 + num_locals, batch, 4).double()
    views = list(students.split(batch)) + (list(local_students.split(batch)) if num_locals else [])
    losses = [
        pair_statistics(views[i], teachers.split(batch)[j], boxes[i], boxes[j]).loss.mean()
        for j in (0, 1)
        for i in range(2 + num_locals)
        if i != j
    ]
    loss, _ = multicrop_loss(students, local_students, teachers, boxes)
    assert len(losses) == 2 * (1 + num_locals)
    assert loss.item() == pytest.approx(torch.stack(losses).mean().item(), abs=1e-12)


def test_image_with_too_few_negatives_has_no_loss_no_gradient_and_is_counted():
    student, teacher, boxes, _ = random_case(0, batch=2, teacher_size=(4, 4))
    student.requires_grad_()
    stats = pair_statistics(student, teacher, boxes, boxes, positive_radius=9.0)
    stats.loss.sum().backward()
    assert stats.overfull.all()
    assert stats.loss.tolist() == [0, 0]
    assert not student.grad.any()


def test_flipped_crop_matches_mirrored_cells():
    student, teacher, student_boxes, teacher_boxes = random_case(3)
    flipped_box = student_boxes[:, [2, 1, 0, 3]]
    straight = pair_statistics(student, teacher, student_boxes, teacher_boxes).loss
    mirrored = pair_statistics(student.flip(3), teacher, flipped_box, teacher_boxes).loss
    torch.testing.assert_close(mirrored, straight)


def test_degenerate_crops_have_no_positive_and_no_nan():
    student, teacher, *_ = random_case(1)
    point = torch.full((4, 4), 0.5)
    stats = pair_statistics(student, teacher, point, point)
    assert stats.num_positives.tolist() == [0] * 4
    assert stats.loss.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_raised_to_float32(dtype):
    student, teacher, *boxes = random_case(2)
    stats = pair_statistics(student.to(dtype), teacher.to(dtype), *boxes)
    expected = pair_statistics(student.to(dtype).float(), teacher.to(dtype).float(), *boxes)
    assert stats.loss.dtype == torch.float32
    assert torch.equal(stats.loss, expected.loss)


def test_teacher_map_smaller_than_the_negatives_is_refused_with_the_way_out():
    student, teacher, *boxes = random_case(2, teacher_size=(3, 3))
    with pytest.raises(ValueError, match=r"97 px or more for 10.*METHOD\.NUM_NEGATIVES"):
        pair_statistics(student, teacher, *boxes)
