"""The monitors against slow versions, and on embeddings whose values are known."""

import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F

import pretrain.run
from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE
from pretrain.monitor import measures
from pretrain.monitor.measures import (
    attention_statistics,
    effective_rank,
    matches,
    measure,
    warning,
)
from pretrain.monitor.monitor import Monitor
from pretrain.train import train
from tests.pretrain.tiny import config, write_images


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-3)


def boxes(seed, views=2, images=3):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(views, images, 2, generator=generator) * 0.4
    return torch.cat([corners, corners + 0.5], dim=2)


def centers(box, height, width):
    x0, y0, x1, y1 = box
    return [
        (x0 + (j + 0.5) * (x1 - x0) / width, y0 + (i + 0.5) * (y1 - y0) / height)
        for i in range(height)
        for j in range(width)
    ]


def slow_matches(students, teachers, of, teacher_of, radius):
    """Cell by cell, from the definition."""
    found = among = chance = 0
    for v in range(len(students)):
        for b in range(students.shape[1]):
            size, teacher_size = students.shape[-2:], teachers.shape[-2:]
            box, teacher_box = of[v, b].tolist(), teacher_of[v, b].tolist()
            diagonals = [
                math.hypot((x1 - x0) / w, (y1 - y0) / h)
                for (x0, y0, x1, y1), (h, w) in ((box, size), (teacher_box, teacher_size))
            ]
            theirs = centers(teacher_box, *teacher_size)
            for s, place in enumerate(centers(box, *size)):
                near = [math.dist(place, t) / max(diagonals) < radius for t in theirs]
                if not any(near):
                    continue
                among += 1
                chance += sum(near) / len(near)
                cell = students[v, b].flatten(1)[:, s]
                cosines = [float(cell @ teacher) for teacher in teachers[v, b].flatten(1).T]
                found += near[cosines.index(max(cosines))]
    return found, among, chance


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_of_the_definition(seed):
    students, teachers = unit(2, 3, 8, 4, 4, seed=seed), unit(2, 3, 8, 4, 4, seed=seed + 100)
    arguments = students, teachers, boxes(seed), boxes(seed + 50), 0.7
    assert matches(*arguments) == pytest.approx(slow_matches(*arguments), rel=1e-6)


def test_a_student_that_knows_the_place_always_matches():
    place = torch.arange(16).view(4, 4)
    maps = F.one_hot(place, 16).permute(2, 0, 1).float().expand(2, 3, 16, 4, 4)
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 3, 4)
    found, among, chance = matches(maps, maps, whole, whole, 0.7)
    assert found == among == 2 * 3 * 16
    assert chance / among == pytest.approx(1 / 16)  # 0.7 diagonals reach no neighbour but itself
    turned = maps.flip(-1)
    assert matches(maps, turned, whole, whole, 0.7)[0] == 0


def test_effective_rank_is_the_number_of_equal_directions():
    basis = torch.eye(8).repeat(5, 1)
    assert effective_rank(basis) == pytest.approx(8, rel=1e-3)
    assert effective_rank(basis[:, :3].repeat(1, 2)) == pytest.approx(3, rel=1e-3)
    assert effective_rank(torch.ones(20, 8)) == pytest.approx(1, rel=1e-3)


def test_attention_that_looks_everywhere_and_at_itself():
    everywhere = torch.full((2, 1, 9, 9), 1 / 9)
    itself = torch.eye(9).expand(2, 1, 9, 9)
    entropies, distances = attention_statistics(torch.cat([everywhere, itself], dim=1), 3, 3)
    assert entropies == pytest.approx([1.0, 0.0], abs=1e-6)
    places = [(i, j) for i in range(3) for j in range(3)]
    mean = sum(math.dist(a, b) for a in places for b in places) / 81
    assert distances == pytest.approx([mean, 0.0], abs=1e-6)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return CLoVE(build_encoder("resnet18"), hidden=32, dim=16, heads=2, num_negatives=3)


def test_measuring_changes_nothing(model):
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    crops = torch.randn(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first = measure(model, crops, boxes(1, images=4), 0.7)
    assert measure(model, crops, boxes(1, images=4), 0.7) == first
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert 0 <= first["match_rate"] <= 1
    assert {"attention_entropy_0", "attention_distance_1"} <= first.keys()


def test_without_self_attention_there_is_none_to_measure():
    model = CLoVE(build_encoder("resnet18"), hidden=32, dim=16, heads=0, num_negatives=3)
    values = measure(model, torch.randn(2, 4, 3, 64, 64), boxes(1, images=4), 0.7)
    assert {"match_rate", "effective_rank"} <= values.keys()
    assert not any("attention" in name for name in values)


def test_a_constant_embedding_is_a_collapse_and_a_spread_one_is_not(model, monkeypatch):
    crops = torch.randn(2, 4, 3, 64, 64)
    collapsed = unit(1, 16, 1, 1).expand(8, 16, 2, 2)
    monkeypatch.setattr(model, "contextualize", lambda maps: collapsed)
    values = measure(model, crops, boxes(2, images=4), 0.7)
    assert values["embedding_spread"] == pytest.approx(0, abs=1e-5)
    assert values["effective_rank"] == pytest.approx(1, rel=1e-3)
    assert "the embedding has collapsed" in warning(values)
    monkeypatch.setattr(model, "contextualize", lambda maps: unit(8, 16, 2, 2, seed=3))
    values = measure(model, crops, boxes(2, images=4), 0.7)
    assert values["embedding_spread"] == pytest.approx(1, rel=0.1)
    assert warning(values) is None


def test_a_network_that_diverged_is_measured_and_warned_of(model, monkeypatch):
    monkeypatch.setattr(model, "contextualize", lambda maps: torch.full((8, 16, 2, 2), math.nan))
    values = measure(model, torch.randn(2, 4, 3, 64, 64), boxes(2, images=4), 0.7)
    assert "diverged" in warning(values)


def test_under_autocast_only_the_networks_are_in_half_precision(model, monkeypatch):
    maps = unit(8, 16, 2, 2, seed=3)
    monkeypatch.setattr(model, "contextualize", lambda _: maps)
    monkeypatch.setattr(measures, "project", lambda *_: (maps, maps))
    arguments = model, torch.randn(2, 4, 3, 64, 64), boxes(2, images=4), 0.7
    plain = measure(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        half = measure(*arguments)
    of_maps = [name for name in plain if not name.startswith("attention")]
    assert {name: half[name] for name in of_maps} == {name: plain[name] for name in of_maps}


def test_a_value_that_is_not_finite_is_a_divergence():
    healthy = {"embedding_spread": 1.0, "effective_rank": 5.0, "weight_growth": 1.0}
    assert warning(healthy) is None
    for name in healthy:
        assert "diverged" in warning(healthy | {name: math.nan})


def test_weights_that_outgrow_their_past_are_warned_of(model):
    crops = torch.randn(2, 4, 3, 64, 64)
    grown = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in grown.student.parameters():
            parameter.mul_(3)
    values = measure(grown, crops, boxes(2, images=4), 0.7)
    assert values["weight_growth"] == pytest.approx(3, rel=1e-5)
    values |= {"embedding_spread": 1.0, "effective_rank": 5.0}
    assert "3.0 times the teacher's" in warning(values)
    assert measure(model, crops, boxes(2, images=4), 0.7)["weight_growth"] == pytest.approx(1)


BROKEN = {
    "CROPS__NUM_LOCALS": 0,
    "MODEL__DIM": 32,
    "LOSS__NUM_NEGATIVES": 3,
    "SOLVER__EPOCHS": 4,
    "SOLVER__WARMUP_EPOCHS": 0,
    "SOLVER__BATCH_SIZE_PER_GPU": 4,
    "SOLVER__BASE_LR": 8.0,
    "SOLVER__TEACHER_MOMENTUM": 0.97,
    "CHECKPOINT__PERIOD_EPOCHS": 100,
    "LOG__PERIOD": 100,
    "MONITOR__PERIOD": 8,
    "MONITOR__IMAGES": 16,
}


def warnings(folder, monkeypatch, **changes):
    """What the monitors of a run of 16 steps warn of; the run may diverge."""
    monkeypatch.setattr(Monitor, "show", lambda *_: None)  # no pictures: faster
    images = write_images(folder / "images", 16)
    with contextlib.suppress(FloatingPointError):
        train(config(images, folder / "run", **(BROKEN | changes)))
    said = (folder / "run" / "log.txt").read_text().splitlines()
    return [line for line in said if "warning: " in line]


def test_a_constant_teacher_is_flagged_within_200_steps(tmp_path, monkeypatch):
    def build(cfg):
        model = original(cfg)
        model.teacher.register_forward_hook(lambda module, inputs, maps: torch.ones_like(maps))
        return model

    original = pretrain.run.build_model
    monkeypatch.setattr(pretrain.run, "build_model", build)
    assert "the embedding has collapsed" in warnings(tmp_path, monkeypatch)[-1]


def test_a_learning_rate_a_hundred_times_too_high_is_flagged_within_200_steps(
    tmp_path, monkeypatch
):
    assert "lower SOLVER.BASE_LR" in warnings(tmp_path, monkeypatch, SOLVER__BASE_LR=800.0)[-1]


def test_a_run_that_is_well_is_not_flagged(tmp_path, monkeypatch):
    assert warnings(tmp_path, monkeypatch) == []
