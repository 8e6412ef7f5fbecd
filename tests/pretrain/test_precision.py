"""Half precision, the gradient scaler, torch.compile: the same run by other arithmetic."""

import json
import logging

import pytest
import torch

import pretrain.train
from pretrain.methods import build_model, complete
from pretrain.methods.clove import CLoVE
from pretrain.runtime import checkpoints, distributed
from pretrain.runtime.provenance import hardware
from pretrain.train import compile_parts, distribute, train
from tests.pretrain.tiny import config, write_images

SAID = "bf16 was asked for, but this processor has none"


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def weights(path):
    return checkpoints.load(path)["model"]["student.encoder.layer4.1.conv2.weight"]


def untrained(cfg):
    torch.manual_seed(cfg.SEED)
    return build_model(complete(cfg))


def test_bf16_trains_and_keeps_weights_in_float32(images, tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "cpu_has_bf16", lambda: True)
    cfg = config(images, tmp_path / "run", SOLVER__PRECISION="bf16")
    before = untrained(cfg).student.encoder.layer4[1].conv2.weight
    path = train(cfg)
    state = checkpoints.load(path)["model"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in state.values())
    assert (weights(path) - before).norm() > 1e-4 * before.norm()


def test_on_a_cpu_without_bf16_the_run_says_so_and_is_that_in_fp32(
    images, tmp_path, monkeypatch, capfd
):
    straight = train(config(images, tmp_path / "straight", SOLVER__EPOCHS=1))
    assert SAID not in capfd.readouterr().err
    monkeypatch.setattr(distributed, "cpu_has_bf16", lambda: False)
    path = train(config(images, tmp_path / "run", SOLVER__EPOCHS=1, SOLVER__PRECISION="bf16"))
    assert capfd.readouterr().err.count(SAID) == 1
    assert hardware().startswith("CPU without bf16, ")
    expected = checkpoints.load(straight)["model"]
    actual = checkpoints.load(path)["model"]
    assert all(torch.equal(actual[name], value) for name, value in expected.items())


@pytest.mark.slow  # without a GPU
def test_fp16_trains_resumes_and_tells_the_scale_of_its_gradients(images, tmp_path):
    cfg = config(images, tmp_path / "run", SOLVER__PRECISION="fp16")
    before = untrained(cfg).student.encoder.layer4[1].conv2.weight
    path = train(cfg)
    straight, trained = checkpoints.load(path)["scaler"], weights(path)
    assert (trained - before).norm() > 1e-4 * before.norm()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert straight["scale"] == lines[-1]["gradient_scale"] < 65536
    for later in checkpoints.list_checkpoints(tmp_path / "run")[1:]:
        later.unlink()  # as if killed after the first epoch
    assert train(cfg, resume=True) == path
    assert checkpoints.load(path)["scaler"] == straight
    assert torch.equal(weights(path), trained)


def test_a_run_that_was_not_in_fp16_goes_on_in_it(images, tmp_path):
    train(config(images, tmp_path / "run", SOLVER__EPOCHS=1))
    changes = {"SOLVER__EPOCHS": 2, "SOLVER__PRECISION": "fp16"}
    path = train(config(images, tmp_path / "run", **changes), True, ["SOLVER"])
    assert checkpoints.load(path)["scaler"]["scale"] <= 65536


def test_an_infinite_gradient_halves_the_scale_and_changes_no_weight(images, tmp_path, monkeypatch):
    def forward(self, *args):
        self.student.encoder.conv1.weight.register_hook(lambda gradient: gradient * torch.inf)
        return original(self, *args)

    original = CLoVE.forward
    monkeypatch.setattr(CLoVE, "forward", forward)
    changes = {"SOLVER__EPOCHS": 1, "SOLVER__PRECISION": "fp16", "SOLVER__TEACHER_MOMENTUM": 1.0}
    cfg = config(images, tmp_path / "run", **changes)
    before = dict(untrained(cfg).named_parameters())
    content = checkpoints.load(train(cfg))
    assert content["step"] == 2
    assert content["scaler"]["scale"] == 65536 / 4
    assert all(torch.equal(content["model"][name], value) for name, value in before.items())


@pytest.mark.parametrize("works", [True, False])
def test_a_compiled_run_is_the_same_and_so_is_one_where_nothing_compiles(
    images, tmp_path, monkeypatch, works
):
    """As on a GPU; a CPU compiles nothing."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        if not works:
            raise RuntimeError("No working C++ compiler found")
        return graph

    def compile_and_distribute(model, device):
        compile_parts(model, logging.getLogger("pretrain"))
        return distribute(model, device)

    straight = train(config(images, tmp_path / "straight", SOLVER__EPOCHS=1))
    assert not compiled
    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: original(*a, **k | {"backend": backend}))
    monkeypatch.setattr(pretrain.train, "distribute", compile_and_distribute)
    settings = {"MONITOR__PERIOD": 1, "MONITOR__IMAGES": 3}
    path = train(config(images, tmp_path / "run", SOLVER__EPOCHS=1, **settings))
    # Student of two resolutions, teacher, loss; forward alone, as this backend has no other
    assert len(compiled) == (4 if works else 3)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log.count("torch.compile failed") == (0 if works else 3)
    expected = checkpoints.load(straight)["model"]
    actual = checkpoints.load(path)["model"]
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], value) for name, value in expected.items())
