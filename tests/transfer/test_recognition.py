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
        tiny("module.net."),
        tiny("module.encoder_q.", "module.encoder_q.fc.0.weight", "module.memory"),
        tiny("module.encoder.", "module.value_transform.weight", "module.other.weight"),
        tiny("", "head.weight"),
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
    unknown = {"state_dict": tiny("module.net_a.", "module.net_a.fc.weight", "module.memory")}
    backbone = find_backbone(unknown, prefix="module.net_a.")
    assert backbone.method is None
    assert backbone.dropped == {"net_a": 1, "memory": 1}
    assert find_backbone(unknown, "dino", "net_a").method is METHODS["dino"]
    with pytest.raises(CheckpointError, match=r"no backbones under --prefix 'x'.*net_a"):
        find_backbone(unknown, prefix="x")


def test_prefix_may_begin_with_the_container():
    both = {name: tiny("module.backbone.", "module.head.last_layer.x") for name in ("a", "b")}
    with pytest.raises(CheckpointError, match="2 backbones under --prefix 'backbone'"):
        find_backbone(both, prefix="backbone")
    assert find_backbone(both, prefix="b.module.backbone").reason == (
        "--prefix b.module.backbone in b"
    )


def test_the_longest_prefix_comes_first():
    both = tiny("module.encoder_q.0.") | tiny("module.encoder_q.", "module.encoder_q.1.weight")
    assert find_backbone({"state_dict": both}, "setsim").prefix == "encoder_q.0."
    assert find_backbone({"state_dict": both}, "moco").prefix == "encoder_q."


def test_the_same_backbone_with_and_without_module_is_two():
    twice = tiny("encoder.") | tiny("module.encoder.", "self_attn.weight")
    with pytest.raises(CheckpointError, match=r"two backbones.*'encoder\.' and 'module\.encoder"):
        find_backbone({"model": twice}, "clove")
    with pytest.raises(CheckpointError, match="no backbone as method auto knows it"):
        find_backbone({"model": twice})
    assert find_backbone({"model": twice}, "clove", "module.encoder.").prefix == "module.encoder."


def test_one_entry_under_two_names_is_an_error():
    state = {"stem.conv1.weight": torch.zeros(1), "backbone.stem.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"and backbone\.stem\.conv1\.weight are the same"):
        find_backbone({"model": state}, "dino")


def test_a_method_without_files_says_why():
    with pytest.raises(CheckpointError, match="no public code or weights"):
        find_backbone(tiny("net."), "inscon")
    assert find_backbone(tiny("net."), "inscon", "net").method is METHODS["inscon"]


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


def test_a_method_that_the_keys_contradict_is_believed_and_the_contradiction_said():
    moco = {"state_dict": tiny("module.encoder_q.", "module.encoder_q.fc.weight", "module.queue")}
    told = find_backbone(moco, "resim")
    assert told.method is METHODS["resim"]
    assert told.reason == "as told: training file; but its keys are moco's"
    assert find_backbone(moco, "moco").reason == "as told: v1 file"


def test_other_state_dicts_are_counted_with_what_is_dropped():
    backbone = find_backbone({"model": RELEASED, "ema": tiny("net."), "epoch": 3})
    assert backbone.dropped == {"encoder_k": 1, "self_attn": 1, "ema": 2}
