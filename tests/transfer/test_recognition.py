from collections import OrderedDict

import pytest
import torch

from transfer.checkpoints import METHODS, CheckpointError
from transfer.recognition import find_backbone


def tiny(prefix, *others):
    keys = [f"{prefix}conv1.weight", f"{prefix}layer1.0.conv1.weight", *others]
    return OrderedDict((key, torch.zeros(1)) for key in keys)


OWN = tiny("student.encoder.", "teacher.encoder.conv1.weight", "attention.out_proj.bias")
RELEASED = tiny(
    "module.encoder.", "module.encoder_k.conv1.weight", "module.self_attn.out_proj.bias"
)


@pytest.mark.parametrize(
    ("checkpoint", "method", "network", "prefix"),
    [
        ({"model": OWN}, "clove", "student", "student.encoder."),
        ({"model": RELEASED, "epoch": 3}, "clove", "student", "encoder."),
        (RELEASED, "clove", "student", "encoder."),
        (tiny("", "fc.weight", "fc.bias"), "supervised", "only network", ""),
    ],
)
def test_auto_recognises_each_layout(checkpoint, method, network, prefix):
    backbone = find_backbone(checkpoint)
    assert backbone.method is METHODS[method]
    assert (backbone.network, backbone.prefix) == (network, prefix)
    assert list(backbone.entries) == ["conv1.weight", "layer1.0.conv1.weight"]


def test_a_backbone_alone_is_found_but_nobody_is_named_its_method():
    for prefix in ("", "module.", "module.encoder."):
        backbone = find_backbone({"model": tiny(prefix)})
        assert backbone.method is None
        assert len(backbone.entries) == 2


@pytest.mark.parametrize(
    "state",
    [
        tiny("module.encoder_q.", "module.encoder_q.fc.weight", "module.queue"),
        tiny("module.encoder.", "module.encoder_k.conv1.weight", "module.value_transform.weight"),
        tiny("module.", "module.projection_head.0.weight", "module.prototypes.weight"),
        tiny("backbone.bottom_up."),
    ],
)
def test_auto_lists_what_it_saw_when_no_row_fits(state):
    with pytest.raises(CheckpointError, match="no backbone as method auto knows it") as caught:
        find_backbone({"state_dict": state})
    assert "Seen in state_dict: " in str(caught.value)
    assert "backbones under '" in str(caught.value)
    assert "--prefix" in str(caught.value)


def test_prefix_overrides_the_networks_of_the_rows():
    teacher = {"model": OWN | tiny("teacher.encoder.")}
    assert find_backbone(teacher, prefix="teacher.encoder").network == "teacher"
    assert find_backbone({"model": RELEASED | tiny("module.encoder_k.")}, "clove", "encoder_k.")
    moco = {"state_dict": tiny("module.encoder_q.", "module.encoder_q.fc.weight", "module.queue.x")}
    backbone = find_backbone(moco, prefix="module.encoder_q.")
    assert backbone.method is None
    assert backbone.dropped == {"encoder_q": 1, "queue": 1}
    with pytest.raises(CheckpointError, match=r"no backbones under --prefix 'x'.*encoder_q"):
        find_backbone(moco, prefix="x")


def test_two_backbones_that_fit_are_an_error():
    with pytest.raises(CheckpointError, match="2 backbones fit"):
        find_backbone({"a": RELEASED, "b": RELEASED})


def test_checkpoints_of_newer_versions_and_converted_files_are_refused():
    with pytest.raises(CheckpointError, match="format 2 of a pretraining checkpoint"):
        find_backbone({"format": 2, "kind": "clove_pretraining", "model": OWN})
    with pytest.raises(CheckpointError, match="converted already"):
        find_backbone({"format": 1, "model": {}, "matching_heuristics": True, "meta": {}})
    with pytest.raises(CheckpointError, match="holds no state dict"):
        find_backbone({"epoch": 3})
