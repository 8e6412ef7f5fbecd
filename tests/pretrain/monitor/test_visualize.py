"""Pictures of a checkpoint: what they show, the command that draws them, TensorBoard's images."""

import argparse
import math
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pretrain import visualize
from pretrain.augment import MultiCrop
from pretrain.config import get_cfg
from pretrain.encoder import build_encoder
from pretrain.methods.clove import CLoVE
from pretrain.monitor import measures, networks, pictures
from pretrain.runtime import checkpoints
from pretrain.train import train
from tests.pretrain.tiny import config, write_images

KINDS = ("attention", "matches", "pca", "views")
WHOLE = torch.tensor([0.0, 0.0, 1.0, 1.0])


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(noise(*shape, seed=seed), dim=-3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return CLoVE(build_encoder("resnet18"), hidden=32, dim=16, heads=2, num_negatives=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), count=3)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    train(config(images, folder, SOLVER__EPOCHS=1))
    return folder


# ---------------------------------------------------------------------------------------------
# What is drawn


@pytest.mark.parametrize("seed", range(5))
def test_matches_are_those_that_the_monitors_count(seed):
    student, teacher = unit(8, 4, 5, seed=seed), unit(8, 5, 4, seed=seed + 100)
    box, teacher_box = torch.tensor([0.1, 0.1, 0.7, 0.8]), torch.tensor([0.9, 0.2, 0.3, 0.9])
    found = pictures.match(student, teacher, box, teacher_box, 0.7)
    batch = [each[None, None] for each in (student, teacher, box, teacher_box)]
    right, among, chance = measures.matches(*batch, 0.7)
    assert found.is_right.sum() == right
    assert found.has_positive.sum() == among
    assert found.chance == pytest.approx(chance / among)
    assert not (found.is_right & ~found.has_positive).any()
    cosines = np.einsum("ds,dt->st", student.flatten(1), teacher.flatten(1))
    assert found.best.tolist() == cosines.argmax(axis=1).tolist()
    np.testing.assert_allclose(found.cosine, cosines.max(axis=1), rtol=1e-5)


def test_cells_that_know_their_place_match_it_also_in_a_mirrored_view():
    maps = torch.eye(16).view(16, 4, 4)
    found = pictures.match(maps, maps, WHOLE, WHOLE, 0.7)
    assert found.best.tolist() == list(range(16))
    assert found.is_right.all()
    assert found.chance == pytest.approx(1 / 16)
    mirrored = WHOLE[[2, 1, 0, 3]]
    assert not pictures.match(maps, maps, WHOLE, mirrored, 0.7).is_right.any()
    found = pictures.match(maps, maps.flip(-1), WHOLE, mirrored, 0.7)
    assert found.is_right.all()


def test_views_that_do_not_overlap_have_no_match():
    left, right = torch.tensor([0.0, 0.0, 0.3, 1.0]), torch.tensor([0.6, 0.0, 1.0, 1.0])
    found = pictures.match(unit(8, 4, 4), unit(8, 4, 4, seed=1), left, right, 0.7)
    assert not found.has_positive.any()
    assert not found.seen.any()
    assert found.chance == 0


def test_principal_components_are_those_of_numpys_svd():
    maps = noise(20, 4, 6) * torch.linspace(5, 1, 20)[:, None, None]
    components, held = pictures.principal_components(maps)
    cells = maps.flatten(1).T.double().numpy()
    _, values, directions = np.linalg.svd(cells - cells.mean(axis=0), full_matrices=False)
    for n, direction in enumerate(directions[:3]):
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        expected = ((cells - cells.mean(axis=0)) @ direction).reshape(4, 6)
        np.testing.assert_allclose(components[n], expected, rtol=1e-4, atol=1e-5)
    assert held == pytest.approx((values[:3] ** 2).sum() / (values**2).sum())


def test_a_map_of_fewer_directions_than_colours_has_components_of_zeros():
    components, held = pictures.principal_components(noise(20, 1, 2))
    assert components.shape == (3, 1, 2)
    assert components[1:].abs().max() < 1e-5
    assert held == pytest.approx(1)


def test_statistics_are_those_of_the_views_and_the_model_is_as_before_afterwards(model):
    crops = noise(6, 3, 64, 64) + 2
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with measures.statistics_of(model, crops):
        assert not model.training
        for network in (model.student, model.teacher):
            responses = network.encoder.conv1(crops)
            norm = network.encoder.bn1
            torch.testing.assert_close(norm.running_mean, responses.mean((0, 2, 3)))
            torch.testing.assert_close(norm.running_var, responses.var((0, 2, 3)))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {m.momentum for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.1}


def test_a_picture_that_fails_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), measures.statistics_of(model, noise(2, 3, 64, 64)):
        raise KeyboardInterrupt
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_maps_are_those_of_the_networks(model):
    crops, picture = noise(2, 3, 96, 96), noise(3, 64, 128, seed=1)
    with measures.statistics_of(model, noise(4, 3, 96, 96, seed=2)), torch.no_grad():
        maps = pictures.embed(model, crops, picture)
        torch.testing.assert_close(maps.students, model.contextualize(model.student(crops)))
        torch.testing.assert_close(maps.teachers, F.normalize(model.teacher(crops), dim=1))
        torch.testing.assert_close(maps.c5, model.student.encoder(picture[None])[0])
    assert maps.c5.shape == (512, 2, 4)
    assert maps.attention.shape == (2, 2, 9, 9)
    torch.testing.assert_close(maps.attention.sum(dim=-1), torch.ones(2, 2, 9))


def test_a_network_that_diverged_is_drawn(model):
    with torch.no_grad():
        model.student.encoder.conv1.weight.fill_(math.nan)
    crops, boxes = noise(2, 3, 96, 96), torch.stack([WHOLE, WHOLE])
    with measures.statistics_of(model, crops):
        maps = pictures.embed(model, crops, crops[0])
    assert maps.students.abs().max() == 0
    for figure in pictures.figures({"step 1": maps}, crops, boxes, crops[0], 0.7).values():
        assert pictures.to_array(figure).dtype == np.uint8


def test_without_self_attention_there_is_no_picture_of_it():
    model = CLoVE(build_encoder("resnet18"), hidden=32, dim=16, heads=0, num_negatives=3)
    crops, boxes = noise(2, 3, 96, 96), torch.stack([WHOLE, WHOLE])
    with measures.statistics_of(model, crops):
        maps = pictures.embed(model, crops, crops[0])
    drawn = pictures.figures({"trained": maps}, crops, boxes, crops[0], 0.7)
    assert drawn.keys() == {"matches", "pca"}


def random_maps(seed):
    attention = noise(2, 3, 20, 20, seed=seed).softmax(dim=-1)
    students, teachers = unit(2, 8, 4, 5, seed=seed), unit(2, 8, 4, 5, seed=seed + 1)
    return pictures.Maps(students, teachers, attention, noise(16, 3, 6, seed=seed))


def test_a_picture_of_matches_says_how_many_are_right():
    maps = {"trained": random_maps(0), "untrained": random_maps(5)}
    boxes = torch.tensor([[0.1, 0.1, 0.7, 0.8], [0.9, 0.2, 0.3, 0.9]])
    figure = pictures.draw_matches(maps, noise(2, 3, 64, 64), boxes, 0.7)
    for ax, (name, of) in zip(figure.axes, maps.items(), strict=False):
        batch = of.students[:1, None], of.teachers[1:, None], boxes[:1, None], boxes[1:, None]
        right, among, chance = measures.matches(*batch, 0.7)
        share = f"{right / among:.0%}; chance {chance / among:.0%}"
        assert ax.get_title() == f"{name}: {right:.0f} of {among:.0f} cells are right ({share})"


def test_a_picture_of_attention_shows_the_rows_of_the_marked_cells():
    maps = random_maps(0)
    figure = pictures.draw_attention({"trained": maps}, noise(3, 64, 64))
    shown = [i.get_array() for i in figure.axes[0].images if i.get_cmap().name == "YlOrBr"]
    cells = [0 * 5 + 0, 2 * 5 + 2, 3 * 5 + 4]  # of 4x5: at 1/6, 3/6 and 5/6 of both sides
    expected = [
        20 * maps.attention[0, head, cell].view(4, 5) for cell in cells for head in range(3)
    ]
    assert len(shown) == 9
    for tile, weights in zip(shown, expected, strict=True):
        np.testing.assert_allclose(tile, weights, rtol=1e-5)
    marks = {patch.get_xy() for patch in figure.axes[0].patches}
    assert len(marks) == 3 * 4
    assert {(0.0, 0.0), (0.4, 1.12 + 0.5), (0.8, 2.24 + 0.75)} <= {
        (round(x, 6), round(y, 6)) for x, y in marks
    }


def test_pixels_undo_the_normalization():
    image = torch.rand(3, 4, 5)
    shown = pictures.pixels(visualize.normalize(image))
    np.testing.assert_allclose(shown, image.permute(1, 2, 0), atol=1e-6)


def test_views_of_an_image_do_not_depend_on_the_others():
    cfg = get_cfg()
    cfg.merge_from_list(["CROPS.GLOBAL_SIZE", 64, "CROPS.LOCAL_SIZE", 32])
    image = (torch.rand(3, 50, 60) * 255).to(torch.uint8)
    named = {visualize.Path(name): image for name in ("a.png", "b.png")}
    both = visualize.views_of(named, cfg, seed=3)
    assert len(both) * 2 == measures.STATISTICS_VIEWS
    alone = visualize.views_of({visualize.Path("other/b.png"): image}, cfg, seed=3)
    assert all(torch.equal(x, y) for x, y in zip(both[1], alone[0], strict=True))
    assert not torch.equal(both[0].boxes, both[1].boxes)
    assert not torch.equal(both[0].boxes, both[2].boxes)  # the same image, drawn again
    other = visualize.views_of(named, cfg, seed=4)
    assert not torch.equal(both[0].boxes, other[0].boxes)


@pytest.mark.parametrize("locals_", [0, 2, 6, 9])
def test_any_number_of_views_is_drawn(locals_):
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    views = MultiCrop(32, num_locals=locals_, local_size=16)(image, visualize.random.Random(0))
    figure = pictures.draw_views(image, views)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 2 + locals_
    mirrored = ["mirrored" in title for title in titles]
    assert mirrored == [bool(box[0] > box[2]) for box in views.boxes]


# ---------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def small(monkeypatch):
    """Smaller pictures, for a faster test."""
    monkeypatch.setattr(visualize, "PICTURE_SIZE", 64)
    monkeypatch.setattr(measures, "STATISTICS_VIEWS", 4)
    monkeypatch.setattr(visualize, "PNG", {"format": "png", "dpi": 30})


def released(model):
    """A file as the authors released it: 660 entries, a Namespace, numpy numbers."""
    renamed = {"attention": "self_attn", "student": "", "teacher": "_k"}
    state = {}
    for key, value in model.state_dict().items():
        network, *rest = key.split(".")
        parts = (
            [renamed[network], *rest]
            if network == "attention"
            else [rest[0] + renamed[network], *rest[1:]]
        )
        state[".".join(["module", *parts])] = value
    return {
        "opt": argparse.Namespace(crop=0.2, model="CLoVE"),
        "model": state,
        "optimizer": {"param_groups": [{"lr": np.float64(0.08)}], "array": np.arange(3)},
        "epoch": 200,
    }


def written(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_is_drawn_for_every_image_of_a_folder(run, images, tmp_path, capsys, small):
    assert visualize.main([str(run), str(images), "--output", str(tmp_path / "out")]) == 0
    assert written(tmp_path / "out") == [f"{n}_{kind}.png" for n in range(3) for kind in KINDS]
    for path in (tmp_path / "out").iterdir():
        assert min(Image.open(path).convert("RGB").size) > 50
    assert "12 pictures in" in capsys.readouterr().out


def test_the_same_call_draws_the_same_pictures(run, images, tmp_path, small):
    checkpoint = checkpoints.list_checkpoints(run)[-1]
    for folder in "ab":
        output = ["--output", str(tmp_path / folder), "--seed", "3"]
        assert visualize.main([str(checkpoint), str(images / "0.png"), *output]) == 0
    for kind in KINDS:
        first, again = (tmp_path / folder / f"0_{kind}.png" for folder in "ab")
        assert first.read_bytes() == again.read_bytes()


class Stop(Exception):
    pass


def test_the_networks_are_the_last_checkpoints_and_the_one_that_training_began_with(
    run, images, monkeypatch, tmp_path, small
):
    drawn, began = [], {}

    def embed(model, *_):
        drawn.append({name: each.clone() for name, each in model.named_parameters()})

    monkeypatch.setattr(pictures, "embed", embed)
    monkeypatch.setattr(pictures, "figures", lambda *_: {})
    visualize.visualize(run, [images / "0.png"], tmp_path)

    def stop(started, *_):
        began.update(started.model.named_parameters())
        raise Stop

    monkeypatch.setattr("pretrain.train.loop", stop)
    with pytest.raises(Stop):
        train(config(images, tmp_path / "again", SOLVER__EPOCHS=1))
    trained, untrained = drawn
    last = checkpoints.load(checkpoints.list_checkpoints(run)[-1])["model"]
    assert all(torch.equal(last[name], value) for name, value in trained.items())
    assert all(torch.equal(began[name], value) for name, value in untrained.items())
    assert not torch.equal(trained["attention.in_proj_weight"], began["attention.in_proj_weight"])


def test_a_released_checkpoint_is_drawn(clove_r50, images, tmp_path, monkeypatch, small):
    with torch.no_grad():
        clove_r50.teacher.encoder.conv1.weight.fill_(7)
    content = released(clove_r50)
    assert len(content["model"]) == 660
    torch.save(content, tmp_path / "ckpt_epoch_200.pth")
    cfg, models = networks.load(tmp_path / "ckpt_epoch_200.pth")
    assert cfg == get_cfg()
    state = clove_r50.state_dict()
    loaded = models["trained"].state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.items())
    cfg.merge_from_list(["CROPS.GLOBAL_SIZE", 96, "CROPS.LOCAL_SIZE", 32])
    monkeypatch.setattr(networks, "get_cfg", cfg.clone)
    words = [str(tmp_path / "ckpt_epoch_200.pth"), str(images / "0.png")]
    assert visualize.main([*words, "--output", str(tmp_path / "out")]) == 0
    assert written(tmp_path / "out") == [f"0_{kind}.png" for kind in KINDS]


class RunsCode:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("missing", "cannot be read (No such file"),
        ("text", "not a complete, plain PyTorch checkpoint"),
        ("cut", "not a complete, plain PyTorch checkpoint"),
        ("hostile", "holds posix.mkdir, which is"),
        ("tensor", "holds Tensor, not a checkpoint"),
        ("other", "does not hold the networks of CLoVE"),
        ("converted", "does not hold the networks of CLoVE"),
        ("another_arch", "does not hold the networks of its config"),
        ("newer", "format 99 is newer than"),
        ("empty_folder", "no checkpoints/step_*.pth in it"),
        ("broken_run", "none of its 1 checkpoints loads"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_told_in_one_line(
    run, images, tmp_path, capsys, name, wrong
):
    path = tmp_path / f"{name}.pth"
    good = checkpoints.load(checkpoints.list_checkpoints(run)[-1])
    if name == "text":
        path.write_text("weights\n")
    elif name == "cut":
        torch.save(good, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif name == "empty_folder":
        path.mkdir()
    elif name == "broken_run":
        (path / "checkpoints").mkdir(parents=True)
        (path / "checkpoints" / "step_00000002.pth").write_text("weights\n")
    elif name != "missing":
        content = {
            "hostile": {"model": {}, "opt": argparse.Namespace(hook=RunsCode(tmp_path / "canary"))},
            "tensor": torch.zeros(3),
            "other": {"state_dict": {"conv1.weight": torch.zeros(1)}, "epoch": 3},
            "converted": {"format": 1, "model": {"stem.conv1.weight": torch.zeros(1)}, "meta": {}},
            "another_arch": good | {"config": {"MODEL": {"ARCH": "resnet34"}}},
            "newer": good | {"format": 99},
        }[name]
        torch.save(content, path)
    assert visualize.main([str(path), str(images), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {path}: ")
    assert wrong in error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "canary").exists()


def test_unreadable_images_are_named_counted_and_skipped(run, images, tmp_path, capsys, small):
    folder = write_images(tmp_path / "images", count=1)
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:100])
    (folder / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 5)).save(folder / "thin.png")
    words = [str(run), str(folder), str(folder / "gone.png")]
    assert visualize.main([*words, "--output", str(tmp_path / "out")]) == 0
    warnings = capsys.readouterr().err.splitlines()
    for name in ("cut.png", "text.jpg", "thin.png", "gone.png"):
        assert sum(f"{folder / name}: skipped" in line for line in warnings) == 1
    assert warnings[-1] == "warning: 4 of 5 images skipped"
    assert len(written(tmp_path / "out")) == 4


def test_no_image_left_is_an_error(run, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no image")
    output = ["--output", str(tmp_path / "out")]
    assert visualize.main([str(run), str(tmp_path / "a.jpg"), *output]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {tmp_path / 'a.jpg'}: none of 1 images can be read; name some that can"
    (tmp_path / "empty").mkdir()
    assert visualize.main([str(run), str(tmp_path / "empty"), *output]) == 2
    assert f"error: {tmp_path / 'empty'}: no image below it" in capsys.readouterr().err


def test_two_images_of_one_name_are_an_error(run, images, tmp_path, capsys):
    other = write_images(tmp_path / "other", count=1) / "0.png"
    words = [str(run), str(images / "0.png"), str(other), "--output", str(tmp_path / "out")]
    assert visualize.main(words) == 2
    assert f"error: {other}: its pictures would have the names of" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_an_error(run, images, tmp_path, capsys, small):
    (tmp_path / "file").write_text("")
    words = [str(run), str(images / "0.png"), "--output", str(tmp_path / "file")]
    assert visualize.main(words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(tmp_path / "file") in error
    assert error.endswith("choose another --output")


# ---------------------------------------------------------------------------------------------
# TensorBoard


def test_the_monitor_writes_images_and_changes_nothing_of_the_run(images, tmp_path):
    changes = {"SOLVER__EPOCHS": 1, "SOLVER__PRECISION": "bf16", "MONITOR__IMAGES": 3}
    plain = train(config(images, tmp_path / "plain", **changes))
    seen = train(config(images, tmp_path / "seen", MONITOR__PERIOD=1, **changes))
    before, after = checkpoints.load(plain)["model"], checkpoints.load(seen)["model"]
    assert all(torch.equal(before[name], value) for name, value in after.items())
    events = EventAccumulator(str(tmp_path / "seen"), {"images": 0}).Reload()
    tags = [f"monitor/{kind}/{n}" for kind in KINDS for n in (0, 1)]
    assert sorted(events.Tags()["images"]) == tags
    for tag in tags:  # the views stay the same
        steps = [0] if "views" in tag else [0, 1]
        assert [image.step for image in events.Images(tag)] == steps
        assert all(min(image.width, image.height) > 200 for image in events.Images(tag))
    plain_events = EventAccumulator(str(tmp_path / "plain"), {"images": 0}).Reload()
    assert not plain_events.Tags()["images"]
