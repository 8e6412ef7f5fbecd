"""The command that draws what a checkpoint has learnt."""

import argparse
import os

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain import visualize
from pretrain.config import get_cfg
from pretrain.monitor import measures, networks
from pretrain.runtime import checkpoints
from pretrain.train import train
from tests.pretrain.tiny import config, last_checkpoint, write_images

KINDS = ("attention", "matches", "pca", "views")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), count=3)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """The folder of a run of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    train(config(images, folder, SOLVER__EPOCHS=1))
    return folder


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Smaller pictures, for a faster test."""
    monkeypatch.setattr(visualize, "PICTURE_SIZE", 64)
    monkeypatch.setattr(measures, "STATISTICS_VIEWS", 4)
    monkeypatch.setattr(visualize, "PNG", {"format": "png", "dpi": 30})


@pytest.fixture
def draw(run, tmp_path, capsys):
    """Call the command; its exit code, the names of what it drew, its lines on standard error."""

    def call(*paths, checkpoint=run, output=tmp_path / "out"):
        words = [checkpoint, *paths, "--output", output]
        code = visualize.main(list(map(str, words)))
        drawn = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
        return code, drawn, capsys.readouterr().err.splitlines()

    return call


def test_a_run_is_drawn_for_every_image_of_a_folder_again_the_same(
    run, images, tmp_path, capsys, draw
):
    code, drawn, _ = draw(images)
    assert code == 0
    assert drawn == [f"{n}_{kind}.png" for n in range(3) for kind in KINDS]
    for name in drawn:
        assert min(Image.open(tmp_path / "out" / name).convert("RGB").size) > 50
    again = {"checkpoint": last_checkpoint(run), "output": tmp_path / "again"}
    assert draw(images, **again)[:2] == (0, drawn)
    for name in drawn:
        first, second = (tmp_path / folder / name for folder in ("out", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_the_networks_are_the_last_checkpoints_and_the_one_that_training_began_with(
    run, images, tmp_path
):
    trained, untrained = networks.load(run)[1].values()
    last, began = (
        checkpoints.load(last_checkpoint(run))["model"],
        dict(untrained.named_parameters()),
    )
    assert all(torch.equal(last[name], value) for name, value in trained.state_dict().items())
    assert not torch.equal(last["attention.in_proj_weight"], began["attention.in_proj_weight"])
    same = train(config(images, tmp_path, SOLVER__EPOCHS=1, SOLVER__BASE_LR=0.0))
    same = checkpoints.load(same)["model"]
    for name, value in began.items():  # a mean of equal weights is them but for rounding
        torch.testing.assert_close(same[name], value, rtol=1e-6 * ("teacher" in name), atol=0)


def released(model):
    """A file as the authors released it: 660 entries, a Namespace, numpy numbers."""
    state = {}
    for key, value in model.state_dict().items():
        network, _, rest = key.partition(".")
        part, _, name = rest.partition(".")
        names = {"attention": f"self_attn.{rest}", "student": rest, "teacher": f"{part}_k.{name}"}
        state[f"module.{names[network]}"] = value
    return {
        "opt": argparse.Namespace(crop=0.2, model="CLoVE"),
        "model": state,
        "optimizer": {"param_groups": [{"lr": np.float64(0.08)}], "array": np.arange(3)},
        "epoch": 200,
    }


def test_a_released_checkpoint_is_drawn(clove_r50, images, tmp_path, monkeypatch, draw):
    with torch.no_grad():
        clove_r50.teacher.encoder.conv1.weight.fill_(7)
    content = released(clove_r50)
    assert len(content["model"]) == 660
    torch.save(content, path := tmp_path / "ckpt_epoch_200.pth")
    cfg, models = networks.load(path)
    assert cfg == get_cfg()
    state, loaded = clove_r50.state_dict(), models["trained"].state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.items())
    cfg.merge_from_list(["CROPS.GLOBAL_SIZE", 128, "CROPS.LOCAL_SIZE", 32])
    monkeypatch.setattr(networks, "get_cfg", cfg.clone)
    drawn = [f"0_{kind}.png" for kind in KINDS]
    assert draw(images / "0.png", checkpoint=path)[:2] == (0, drawn)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (None, "No such file"),
        ({"state_dict": {"conv1.weight": torch.zeros(1)}}, "does not hold the networks of CLoVE"),
        ("folder", "no checkpoints/step_*.pth in it"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_told_in_one_line(
    images, tmp_path, draw, content, wrong
):
    path = tmp_path / "file.pth"
    if content == "folder":
        path.mkdir()
    elif content:
        torch.save(content, path)
    code, drawn, error = draw(images, checkpoint=path)
    assert (code, drawn) == (2, [])
    assert error[-1].startswith(f"error: {path}: ")
    assert wrong in error[-1]


def test_a_strip_is_drawn_in_bounded_memory_and_a_name_need_not_be_text(tmp_path, draw):
    strip = torch.zeros(3, 30, 6000, dtype=torch.uint8)
    assert visualize.whole(strip).shape == (3, 9, visualize.MAX_PICTURE_SIZE)
    name = os.fsdecode(b"caf\xe9")
    Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    assert draw(tmp_path / f"{name}.png")[:2] == (0, [f"{name}_{kind}.png" for kind in KINDS])


def test_images_and_outputs_that_cannot_be_used_are_named(images, tmp_path, draw):
    (tmp_path / "a.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    other = write_images(tmp_path / "other", count=1) / "0.png"
    for paths, output, expected, wrong in (
        ([images / "0.png", tmp_path / "a.jpg"], "out", 2, f"{tmp_path}/a.jpg: cannot be read"),
        ([tmp_path / "empty"], "out", 2, f"{tmp_path}/empty: no image below it"),
        ([images / "0.png", other], "out", 2, f"{other}: its pictures would have the names of"),
        ([images / "0.png"], "a.jpg", 1, f"[Errno 17] File exists: '{tmp_path}/a.jpg'"),
    ):
        code, _, error = draw(*paths, output=tmp_path / output)
        assert code == expected
        assert error[-1].startswith(f"error: {wrong}")
