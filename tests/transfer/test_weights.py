import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pretrain.runtime.config import ConfigError
from tests.transfer.tiny import converted
from transfer.checkpoints import CheckpointError
from transfer.config import resolve
from transfer.tasks import TASKS
from transfer.weights import (
    check_agreement,
    load_backbone,
    load_model,
    read_model,
    recompute_frozen_bn,
)

EXTRA_NORM = 5  # entries that a C4 head has beside the backbone's


def model(task, *overrides):
    torch.manual_seed(1)
    return build_model(resolve(TASKS[task].config, overrides=["MODEL.DEVICE", "cpu", *overrides]))


@pytest.fixture(scope="module")
def file():
    return converted()


@pytest.mark.parametrize("task", TASKS)
def test_all_318_entries_find_their_place(task, file):
    built = model(task)
    filled = load_backbone(built, file["model"], "x.pth")
    assert len(filled) == len(file["model"]) == 318
    state = built.state_dict()
    for name in filled:
        short = name.removeprefix("backbone.bottom_up.").removeprefix("backbone.")
        assert torch.equal(state[name], file["model"][short.removeprefix("roi_heads.")])
    left = [name for name in state if "res5" in name and name not in filled]
    assert len(left) == (EXTRA_NORM if "C4" in TASKS[task].config else 0)


@pytest.mark.parametrize("task", TASKS)
def test_detectron2_itself_loads_a_converted_file_just_so(task, file, tmp_path):
    torch.save(file, tmp_path / "out.pth")
    ours, theirs = model(task), model(task)
    load_backbone(ours, file["model"], "out.pth")
    DetectionCheckpointer(theirs).load(str(tmp_path / "out.pth"))
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_weights_without_batch_counters_load(file):
    kept = {k: v for k, v in file["model"].items() if "num_batches_tracked" not in k}
    assert len(load_backbone(model("coco_c4"), kept, "x.pth")) == 265


def test_frozen_norms_need_no_batch_counters(file):
    frozen = model("coco_c4", "MODEL.RESNETS.NORM", "FrozenBN")
    assert len(load_backbone(frozen, file["model"], "x.pth")) == 265


@pytest.mark.parametrize("lost", ["stem.conv1.weight", "res5.2.conv3.norm.running_var"])
def test_a_missing_backbone_entry_stops(lost, file):
    incomplete = {key: value for key, value in file["model"].items() if key != lost}
    with pytest.raises(CheckpointError, match=f"x.pth: 1 backbone entries.*{lost}"):
        load_backbone(model("coco_c4"), incomplete, "x.pth")


def test_an_entry_without_a_place_stops(file):
    deeper = file["model"] | {"res4.6.conv1.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 of 319 entries have no place.*res4.6.*DEPTH"):
        load_backbone(model("coco_fpn"), deeper, "x.pth")


def test_an_entry_of_another_shape_stops(file):
    other = file["model"] | {"stem.conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(CheckpointError, match=r"stem.conv1.weight is \(64, 3, 3, 3\) in the file"):
        load_backbone(model("coco_fpn"), other, "x.pth")


def test_a_published_model_of_arrays_loads_whole(tmp_path):
    torch.manual_seed(2)
    source, built = (model("coco_fpn", "MODEL.RESNETS.NORM", "FrozenBN") for _ in range(2))
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    arrays = {name: value.numpy() for name, value in source.state_dict().items()}
    older = {"pixel_mean": source.pixel_mean.numpy()}
    older |= {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros(3)}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": arrays | older, "__author__": "upstream"}))
    load_model(built, read_model(str(path)), str(path))
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in built.state_dict().items())

    bgr = read_model(str(path)) | {"pixel_mean": torch.tensor([103.53, 116.28, 123.675])}
    with pytest.raises(CheckpointError, match=r"Add: MODEL.PIXEL_MEAN '\[103.53, 116.28, 123"):
        load_model(built, bgr, str(path))
    with pytest.raises(CheckpointError, match=r"pkl: \d+ entries are not this config's \(.*KEY"):
        load_model(model("coco_c4"), read_model(str(path)), str(path))


def test_converted_weights_are_no_whole_model(file, tmp_path):
    torch.save(file, tmp_path / "out.pth")
    assert read_model(str(tmp_path / "out.pth")) is None


def test_agreeing_settings_pass(file):
    check_agreement(resolve(TASKS["coco_c4"].config), file["meta"], "x.pth")


def test_contradicting_settings_stop_and_the_printed_pairs_help(file):
    needs = file["meta"]["config"] | {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}
    meta = file["meta"] | {"method": "supervised_msra", "config": needs}
    with pytest.raises(ConfigError, match=r"supervised_msra.*INPUT.FORMAT is RGB") as stopped:
        check_agreement(resolve(TASKS["coco_c4"].config), meta, "x.pth")
    pairs = "INPUT.FORMAT BGR MODEL.PIXEL_STD '[1.0, 1.0, 1.0]'"
    assert str(stopped.value).endswith(f"Add: {pairs}")
    overrides = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]
    check_agreement(resolve(TASKS["coco_c4"].config, overrides=overrides), meta, "x.pth")
