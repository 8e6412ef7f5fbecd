"""Half precision, the gradient scaler, torch.compile: the same run by other arithmetic."""

import json

import pytest
import torch

import pretrain.train
from pretrain import checkpoints
from pretrain.clove import CLoVE
from pretrain.optim import LARS
from pretrain.train import train
from tests.pretrain.tiny import config, write_images


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_and_keeps_weights_in_float32(images, tmp_path, precision):
    name = "student.encoder.layer4.1.conv2.weight"
    cfg = config(images, tmp_path / "run", SOLVER__EPOCHS=5, SOLVER__PRECISION=precision)
    torch.manual_seed(cfg.SEED)
    untrained = pretrain.train.build_model(cfg).state_dict()[name]
    state = checkpoints.load(train(cfg))["model"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    assert (state[name] - untrained).norm() > 1e-4 * untrained.norm()


def test_fp16_tells_and_saves_the_scale_of_its_gradients(images, tmp_path):
    path = train(config(images, tmp_path / "run", SOLVER__EPOCHS=1, SOLVER__PRECISION="fp16"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert checkpoints.load(path)["scaler"]["scale"] == lines[-1]["gradient_scale"] <= 65536


def test_an_infinite_gradient_halves_the_scale_and_changes_no_weight(images, tmp_path, monkeypatch):
    def forward(self, *args):
        self.student.encoder.conv1.weight.register_hook(lambda gradient: gradient * torch.inf)
        return original(self, *args)

    original = CLoVE.forward
    monkeypatch.setattr(CLoVE, "forward", forward)
    changes = {"SOLVER__EPOCHS": 1, "SOLVER__PRECISION": "fp16", "SOLVER__TEACHER_MOMENTUM": 1.0}
    cfg = config(images, tmp_path / "run", **changes)
    torch.manual_seed(cfg.SEED)
    untrained = dict(pretrain.train.build_model(cfg).named_parameters())
    content = checkpoints.load(train(cfg))
    assert content["step"] == 2
    assert content["scaler"]["scale"] == 65536 / 4
    assert all(torch.equal(content["model"][name], value) for name, value in untrained.items())


def test_lars_masks_a_step_as_if_it_had_not_been():
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = LARS([{"params": [parameter]}], lr=0.1)

    def step(gradient, found_inf=None):
        parameter.grad = gradient.clone()
        if found_inf is not None:
            optimizer.found_inf = torch.tensor(found_inf)
        optimizer.step()
        optimizer.__dict__.pop("found_inf", None)
        return parameter.detach().clone(), optimizer.state[parameter]["momentum_buffer"].clone()

    gradients = torch.randn(3, 3, 4)
    before = step(gradients[0])
    masked = step(torch.full((3, 4), torch.nan), found_inf=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, masked, strict=True))
    parameter_before, buffer_before = before
    judged = step(gradients[1], found_inf=0.0)
    parameter.data.copy_(parameter_before)
    optimizer.state[parameter]["momentum_buffer"].copy_(buffer_before)
    ordinary = step(gradients[1])
    for a, b in zip(judged, ordinary, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_without_a_compiler_the_run_says_so_and_is_the_same(images, tmp_path, monkeypatch, capfd):
    def compile_nothing(*_, **__):
        raise RuntimeError("No working C++ compiler found\nand much more")

    straight = train(config(images, tmp_path / "straight", SOLVER__EPOCHS=1))
    monkeypatch.setattr(torch, "compile", compile_nothing)
    path = train(config(images, tmp_path / "run", SOLVER__EPOCHS=1, SOLVER__COMPILE=True))
    said = "torch.compile does not work here, so nothing is compiled (No working C++ compiler"
    assert said in capfd.readouterr().err
    expected = checkpoints.load(straight)["model"]
    actual = checkpoints.load(path)["model"]
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
