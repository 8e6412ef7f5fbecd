from collections import OrderedDict

import pytest
import torch

from tests.transfer.convert.layouts import own, small_trunk, under
from transfer.convert import CheckpointError, to_detectron2
from transfer.convert.backbones import find_backbone

TRUNK = small_trunk()


def at(*prefixes, **others):
    state = {key: value for prefix in prefixes for key, value in under(prefix, TRUNK).items()}
    return state | {key.replace("__", "."): torch.zeros(1) for key in others}


def heads(*names):
    return dict.fromkeys(names, torch.zeros(1))


def by_position(name):
    """As ``nn.Sequential(*network.children())`` calls it."""
    children = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    first, _, rest = name.partition(".")
    return f"{children.index(first)}.{rest}"


def as_in_transformers(name):
    """As ``transformers.ResNetModel`` calls it."""
    if not name.startswith("layer"):
        kind = {"conv1": "convolution", "bn1": "normalization"}[name.split(".")[0]]
        return f"embedder.embedder.{kind}.{name.split('.')[1]}"
    layer, block, part, *middle, end = name.split(".")
    if part == "downsample":
        part, kind = "shortcut", ["convolution", "normalization"][int(middle[0])]
    else:
        kind = "convolution" if part.startswith("conv") else "normalization"
        part = f"layer.{int(part[-1]) - 1}"
    return f"encoder.stages.{int(layer[5:]) - 1}.layers.{block}.{part}.{kind}.{end}"


CLOVE = at("module.encoder.", "module.encoder_k.") | heads("module.self_attn.out_proj.bias")


@pytest.mark.parametrize(
    ("checkpoint", "method", "network", "place"),
    [
        ({"model": CLOVE, "epoch": 3}, "clove", "student", "model.encoder."),
        (CLOVE, "clove", "student", "encoder."),
        (own(TRUNK), "clove", "student", "model.student.encoder."),
        (own(TRUNK, export="teacher"), "clove", "teacher", "model.teacher.encoder."),
        (
            own(TRUNK, config={"METHOD": {"NAME": "slotcon"}}, export="teacher"),
            *("slotcon", "teacher", "model.teacher.encoder."),
        ),
        (
            own(TRUNK, format=1, kind="clove_pretraining", config={"MODEL": {}}),
            *("clove", "student", "model.student.encoder."),
        ),
        (OrderedDict(TRUNK | heads("fc.weight", "fc.bias")), "supervised", "only network", ""),
    ],
)
def test_whose_file_it_is_is_recognised_by_marks(checkpoint, method, network, place):
    backbone = find_backbone(checkpoint)
    assert (backbone.method.name, backbone.network, backbone.place) == (method, network, place)
    assert backbone.reason.startswith("recognised: ")


def test_our_own_teacher_has_other_weights_than_the_student():
    exported = find_backbone(own(TRUNK, export="teacher"))
    assert (exported.torchvision["conv1.weight"] == 7).all()
    assert (find_backbone(own(TRUNK)).torchvision["conv1.weight"] == 0).all()


@pytest.mark.parametrize(
    "state",
    [
        at(""),
        at("module."),
        at("net.") | heads("memory"),
        at("backbone.") | heads("projector.0.weight", "classifier.weight"),  # of Lightning, say
        at("module.encoder.") | heads("module.predictor.0.weight"),  # SimSiam's
        at("module._orig_mod.module.backbone."),
        {f"model.backbone.{by_position(name)}": value for name, value in TRUNK.items()},
        {f"net.0.{by_position(name)}": value for name, value in TRUNK.items()},
        {f"resnet.{as_in_transformers(name)}": value for name, value in TRUNK.items()},
    ],
)
def test_one_backbone_is_found_anywhere_but_nobody_is_named_its_method(state):
    backbone = find_backbone({"state_dict": state, "hyper_parameters": {"method": "byol"}})
    assert backbone.method is None
    other = find_backbone({"state_dict": state}, "other")
    assert other.method.name == "other"
    assert other.method.config["INPUT.FORMAT"] == "RGB"
    assert other.detectron2.keys() == backbone.detectron2.keys()
    assert len(other.detectron2) == 318
    assert all(torch.equal(other.torchvision[name], value) for name, value in TRUNK.items())


def test_prefix_chooses_with_or_without_module_and_the_name_of_the_dictionary():
    two = {"a": at("module.backbone.") | heads("module.head.x"), "b": at("module.backbone.")}
    with pytest.raises(
        CheckpointError, match=r"2 backbones for method auto.*'a\.backbone\.', 'b\.backb"
    ):
        find_backbone(two)
    with pytest.raises(CheckpointError, match="2 backbones under --prefix 'backbone'"):
        find_backbone(two, prefix="backbone")
    for prefix in ("a.module.backbone", "a.backbone."):
        chosen = find_backbone(two, "dino", prefix)
        assert (chosen.method.name, chosen.network) == ("dino", "a.backbone.")
        assert chosen.dropped == {"head": 1, "b": 318}
    assert find_backbone({"model": CLOVE}, prefix="encoder_k").network == "model.encoder_k."
    with pytest.raises(CheckpointError, match=r"no backbones under --prefix 'x'.*'net\.'"):
        find_backbone(at("net."), prefix="x")


def test_a_method_that_the_entries_contradict_is_believed_and_the_contradiction_said():
    moco = at("module.encoder_q.") | heads("module.encoder_q.fc.weight", "module.queue")
    assert find_backbone(moco, "resim").reason == "as told, but its entries are moco's"
    assert find_backbone(moco, "moco").reason == "as told"


def test_what_cannot_be_chosen_says_what_was_seen_and_the_way_out():
    with pytest.raises(CheckpointError, match=r"no backbones for method moco\. Seen: 318 "):
        find_backbone({"state_dict": at("net.")}, "moco")
    with pytest.raises(CheckpointError, match="no backbones for method auto"):
        find_backbone({"epoch": 3})
    twice = {"res2.0.conv1.weight": torch.zeros(1), "backbone.res2.0.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"and backbone\.res2\.0\.conv1\.weight are the same"):
        find_backbone({"model": twice}, "dino")


def test_newer_checkpoints_converted_files_and_unknown_methods_are_refused():
    with pytest.raises(CheckpointError, match="format 3 is newer than"):
        find_backbone(own(TRUNK, format=3))
    with pytest.raises(CheckpointError, match="converted already"):
        find_backbone({"format": 1, "model": {}, "matching_heuristics": True, "meta": {}})
    with pytest.raises(CheckpointError, match="method closve is not one of auto, clove"):
        to_detectron2({"model": CLOVE}, "closve")
