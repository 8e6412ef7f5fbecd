"""The monitors against slow versions, and on embeddings whose values are known."""

import contextlib
import copy
import math

import pytest
import torch
import torch.nn.functional as F

import pretrain.run
from pretrain.monitor import measures
from pretrain.monitor.measures import attention_statistics, effective_rank, match, measure, warning
from pretrain.monitor.monitor import Monitor
from pretrain.train import train
from tests.pretrain.monitor.tiny_maps import WHOLE, boxes, clove, noise, unit
from tests.pretrain.tiny import config, write_images

VIEWS, BOXES = noise(2, 4, 3, 64, 64), boxes(1, 2, 4)


def centers(box, height, width):
    x0, y0, x1, y1 = box
    return [
        (x0 + (j + 0.5) * (x1 - x0) / width, y0 + (i + 0.5) * (y1 - y0) / height)
        for i in range(height)
        for j in range(width)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_matches_are_those_of_the_definition(seed):
    students, teachers = unit(3, 8, 4, 5, seed=seed), unit(3, 8, 5, 4, seed=seed + 100)
    of, teacher_of = boxes(seed, 3), boxes(seed + 50, 3)
    found = match(students, teachers, of, teacher_of)
    chances = []
    for n, (box, teacher_box) in enumerate(zip(of.tolist(), teacher_of.tolist(), strict=True)):
        diagonals = [
            math.hypot((x1 - x0) / w, (y1 - y0) / h)
            for (x0, y0, x1, y1), h, w in ((box, 4, 5), (teacher_box, 5, 4))
        ]
        for s, place in enumerate(centers(box, 4, 5)):
            theirs = centers(teacher_box, 5, 4)
            near = [math.dist(place, their) < 0.7 * max(diagonals) for their in theirs]
            cosines = [float(students[n].flatten(1)[:, s] @ c) for c in teachers[n].flatten(1).T]
            best = cosines.index(max(cosines))
            assert found.is_positive[n, s].tolist() == near
            assert found.has_positive[n, s] == any(near)
            assert (found.best[n, s], found.is_right[n, s]) == (best, near[best])
            assert found.cosine[n, s] == pytest.approx(max(cosines), rel=1e-5)
            chances += [sum(near) / len(near)] if any(near) else []
    assert found.rate == found.is_right.sum() / len(chances)
    assert found.chance == pytest.approx(sum(chances) / len(chances))


def test_cells_that_know_their_place_match_it_also_in_a_mirrored_view():
    maps, whole = torch.eye(16).view(1, 16, 4, 4), WHOLE[None]
    found = match(maps, maps, whole, whole)
    assert found.best[0].tolist() == list(range(16))
    assert found.rate == 1
    assert found.chance == pytest.approx(1 / 16)  # 0.7 diagonals reach no neighbour but itself
    mirrored = WHOLE[[2, 1, 0, 3]][None]
    assert match(maps, maps, whole, mirrored).rate == 0
    assert match(maps, maps.flip(-1), whole, mirrored).rate == 1


def test_effective_rank_is_the_number_of_equal_directions():
    basis = torch.eye(8).repeat(5, 1)
    assert effective_rank(basis) == pytest.approx(8, rel=1e-3)
    assert effective_rank(basis[:, :3].repeat(1, 2)) == pytest.approx(3, rel=1e-3)
    assert effective_rank(torch.ones(20, 8)) == pytest.approx(1, rel=1e-3)


def test_attention_that_looks_everywhere_and_at_itself():
    everywhere = torch.full((2, 1, 9, 9), 1 / 9)
    itself = torch.eye(9).expand(2, 1, 9, 9)
    values = attention_statistics(torch.cat([everywhere, itself], dim=1), 3, 3)
    places = [(i, j) for i in range(3) for j in range(3)]
    mean = sum(math.dist(a, b) for a in places for b in places) / 81
    expected = {"entropy_0": 1.0, "entropy_1": 0.0, "distance_0": mean, "distance_1": 0.0}
    expected = {f"attention_{name}": value for name, value in expected.items()}
    assert values == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def model():
    return clove()


def test_measuring_changes_nothing(model):
    model.eval()
    before = copy.deepcopy(model.state_dict())
    first = measure(model, VIEWS, BOXES)
    assert measure(model, VIEWS, BOXES) == first
    assert not model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert 0 <= first["match_rate"] <= 1
    assert {"attention_entropy_0", "attention_distance_1"} <= first.keys()


def test_statistics_are_those_of_the_views_and_the_model_stays_as_it_was(model):
    crops = noise(6, 3, 64, 64) + 2
    model.train()
    before = copy.deepcopy(model.state_dict())
    settled = measures.settled(model, crops)
    for network in (settled.student, settled.teacher):
        responses, norm = network.encoder.conv1(crops), network.encoder.bn1
        torch.testing.assert_close(norm.running_mean, responses.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, responses.var((0, 2, 3)))
    assert (model.training, settled.training) == (True, False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_without_self_attention_there_is_none_to_measure():
    values = measure(clove(heads=0), VIEWS, BOXES)
    assert {"match_rate", "effective_rank"} <= values.keys()
    assert not any("attention" in name for name in values)


def test_a_method_without_maps_of_its_own_is_measured_by_its_c5(model):
    class Plain(torch.nn.Module):
        exported = "network"

        def __init__(self):
            super().__init__()
            self.network = torch.nn.Module()
            self.network.encoder = model.student.encoder

    values = measure(Plain(), VIEWS, BOXES)
    c5 = F.normalize(copy.deepcopy(model.student.encoder).train()(VIEWS.flatten(0, 1)), dim=1)
    others = c5.roll(4, dims=0)
    found = match(c5, others, BOXES.flatten(0, 1), BOXES.flip(0).flatten(0, 1))
    assert (values["match_rate"], values["match_chance"]) == (found.rate, found.chance)
    assert values.keys() == {
        "match_rate",
        "match_chance",
        "random_similarity",
        "embedding_spread",
        "effective_rank",
    }
    assert warning(values) is None


def test_a_constant_embedding_is_a_collapse_and_a_spread_one_is_not(model, monkeypatch):
    collapsed = unit(1, 16, 1, 1).expand(8, 16, 2, 2)
    monkeypatch.setattr(model, "maps", lambda _: (collapsed, collapsed))
    values = measure(model, VIEWS, BOXES)
    assert values["embedding_spread"] == pytest.approx(0, abs=1e-5)
    assert values["effective_rank"] == pytest.approx(1, rel=1e-3)
    assert "the embedding has collapsed" in warning(values)
    spread = unit(8, 16, 2, 2, seed=3)
    monkeypatch.setattr(model, "maps", lambda _: (spread, spread))
    values = measure(model, VIEWS, BOXES)
    assert values["embedding_spread"] == pytest.approx(1, rel=0.1)
    assert warning(values) is None
    with torch.autocast("cpu", torch.bfloat16):  # of which the measures of maps take no notice
        half = measure(model, VIEWS, BOXES)
    of_maps = [name for name in values if not name.startswith("attention")]
    assert {name: half[name] for name in of_maps} == {name: values[name] for name in of_maps}


def test_a_network_that_diverged_is_measured_and_warned_of(model, monkeypatch):
    monkeypatch.setattr(model, "contextualize", lambda maps: torch.full((8, 16, 2, 2), math.nan))
    assert "diverged" in warning(measure(model, VIEWS, BOXES))
    healthy = {"embedding_spread": 1.0, "effective_rank": 5.0, "weight_growth": 1.0}
    assert warning(healthy) is None
    for name in healthy:
        assert "diverged" in warning(healthy | {name: math.nan})


def test_weights_that_outgrow_their_past_are_warned_of(model):
    assert measure(model, VIEWS, BOXES)["weight_growth"] == pytest.approx(1)
    grown = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in grown.student.parameters():
            parameter.mul_(3)
    values = measure(grown, VIEWS, BOXES)
    assert values["weight_growth"] == pytest.approx(3, rel=1e-5)
    values |= {"embedding_spread": 1.0, "effective_rank": 5.0}
    assert "3.0 times the teacher's" in warning(values)


BROKEN = {
    "CROPS__NUM_LOCALS": 0,
    "METHOD__DIM": 32,
    "METHOD__NUM_NEGATIVES": 3,
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


@pytest.mark.parametrize(
    ("lr", "constant_teacher", "said"),
    [
        (8.0, False, None),
        (800.0, False, "lower SOLVER.BASE_LR"),
        (8.0, True, "the embedding has collapsed"),
    ],
)
def test_a_run_is_flagged_within_16_steps_unless_it_is_well(
    tmp_path, monkeypatch, lr, constant_teacher, said
):
    def build(cfg):
        model = original(cfg)
        if constant_teacher:
            model.teacher.register_forward_hook(lambda module, inputs, maps: torch.ones_like(maps))
        return model

    original = pretrain.run.build_model
    monkeypatch.setattr(pretrain.run, "build_model", build)
    monkeypatch.setattr(Monitor, "show", lambda *_: None)  # no pictures: faster
    images = write_images(tmp_path / "images", 16)
    with contextlib.suppress(FloatingPointError):  # it may diverge
        train(config(images, tmp_path / "run", **BROKEN | {"SOLVER__BASE_LR": lr}))
    lines = (tmp_path / "run" / "log.txt").read_text().splitlines()
    warnings = [line for line in lines if "warning: " in line]
    assert said in warnings[-1] if said else not warnings
