"""What the loop, the loader and the converter ask of every method."""

import pytest
import torch

from pretrain.config import get_cfg
from pretrain.methods import METHODS, build_model, complete
from pretrain.runtime.config import merge


def config(*overrides):
    cfg = get_cfg()
    merge(cfg, None, ["ENCODER.ARCH", "resnet18", "CROPS.GLOBAL_SIZE", "128", *overrides])
    return complete(cfg)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_keeps_the_contract(name):
    model = build_model(config("METHOD.NAME", name)).train()
    assert model.boxes in ("centers", "edges")
    assert model.exported in ("student", "teacher")
    assert {type(model.synchronize_bn), type(model.zero_last_gamma)} == {bool}
    assert getattr(model, model.exported).encoder.channels == 512
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 2, 4)
    outputs = model(torch.randn(2, 2, 3, 128, 128), torch.randn(1, 2, 3, 64, 64), boxes, 0.99)
    assert outputs["loss"].requires_grad
    assert not any(value.requires_grad for key, value in outputs.items() if key != "loss")
    assert all(value.shape == () for value in outputs.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_complete_config_has_every_key_and_completing_it_again_changes_nothing(name):
    cfg = config("METHOD.NAME", name)
    assert len(cfg.METHOD) > 1
    assert complete(cfg) == cfg


def test_whole_numbers_serve_where_a_method_takes_fractions():
    assert complete(config("METHOD.GAMMA", "3")).METHOD.GAMMA == 3.0
