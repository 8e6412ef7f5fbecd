"""Weights into models: all of them, or an error; statistics of a frozen trunk, against BN."""

import pickle

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch.nn import functional as F

from pretrain.runtime.config import ConfigError
from tests.transfer.tiny import converted, trunk_overrides
from transfer.config import resolve
from transfer.convert import CheckpointError
from transfer.tasks import TASKS
from transfer.weights import (
    check_agreement,
    load_backbone,
    load_model,
    read_model,
    recompute_frozen_bn,
)

EXTRA_NORM = 5  # entries that a C4 head has beside the backbone's
ON_FPN = [name for name, task in TASKS.items() if "FPN" in task.config]
PLAIN_BN = ["MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]


def model(task, *overrides):
    torch.manual_seed(1)
    return build_model(resolve(TASKS[task].config, overrides=["MODEL.DEVICE", "cpu", *overrides]))


@pytest.fixture(scope="module")
def file():
    return converted()


@pytest.mark.parametrize(
    ("task", "depth"),
    [(task, 50) for task in TASKS] + [(task, depth) for task in ON_FPN for depth in (18, 34)],
)
def test_all_entries_find_the_places_that_detectron2_itself_gives_them(task, depth, tmp_path):
    file = converted(depth)
    torch.save(file, tmp_path / "out.pth")
    ours, theirs = (model(task, *trunk_overrides(depth)) for _ in range(2))
    filled = load_backbone(ours, file["model"], "out.pth")
    assert len(filled) == len(file["model"]) == {18: 120, 34: 216, 50: 318}[depth]
    left = [name for name in ours.state_dict() if "res5" in name and name not in filled]
    assert len(left) == (EXTRA_NORM if "C4" in TASKS[task].config else 0)
    DetectionCheckpointer(theirs).load(str(tmp_path / "out.pth"))
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("lost", ["stem.conv1.weight", "res5.2.conv3.norm.running_var"])
def test_a_missing_backbone_entry_stops(lost, file):
    incomplete = {key: value for key, value in file["model"].items() if key != lost}
    with pytest.raises(CheckpointError, match=f"x.pth: 1 backbone entries.*{lost}"):
        load_backbone(model("coco_c4"), incomplete, "x.pth")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("res4.6.conv1.weight", r"x.pth: 1 entries have no place.*res4.6.*DEPTH"),
        ("stem.conv1.weight", r"x.pth: .*size mismatch for backbone.*stem.conv1.weight.*KEY VALUE"),
    ],
)
def test_an_entry_without_a_place_or_of_another_shape_stops(entry, message, file):
    with pytest.raises(CheckpointError, match=message):
        load_backbone(model("coco_fpn"), file["model"] | {entry: torch.zeros(64, 1)}, "x.pth")


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
    with pytest.raises(CheckpointError, match=r"pkl: its entries are not this config's \(.*KEY"):
        load_model(model("coco_c4"), read_model(str(path)), str(path))


def test_contradicting_settings_stop_and_the_printed_pairs_help(file):
    check_agreement(resolve(TASKS["coco_c4"].config), file["meta"], "x.pth")
    needs = file["meta"]["config"] | {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_STD": [1.0, 1.0, 1.0]}
    meta = file["meta"] | {"method": "supervised_msra", "config": needs}
    with pytest.raises(ConfigError, match=r"supervised_msra.*INPUT.FORMAT is RGB") as stopped:
        check_agreement(resolve(TASKS["coco_c4"].config), meta, "x.pth")
    pairs = "INPUT.FORMAT BGR MODEL.PIXEL_STD '[1.0, 1.0, 1.0]'"
    assert str(stopped.value).endswith(f"Add: {pairs}")
    overrides = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]"]
    check_agreement(resolve(TASKS["coco_c4"].config, overrides=overrides), meta, "x.pth")


def test_a_small_trunk_needs_its_pairs_and_a_head_without_bottlenecks():
    meta, fpn = converted(18)["meta"], TASKS["coco_fpn"].config
    pairs = trunk_overrides(18)
    with pytest.raises(ConfigError, match=f"Add: {' '.join(pairs)}$"):
        check_agreement(resolve(fpn), meta, "x.pth")
    check_agreement(resolve(fpn, overrides=pairs), meta, "x.pth")
    bottlenecks = "C4 head is made of bottlenecks, and a ResNet-18 has none.*coco_fpn"
    with pytest.raises(ConfigError, match=bottlenecks):
        check_agreement(resolve(TASKS["coco_c4"].config), meta, "x.pth")
    with pytest.raises(ConfigError, match=bottlenecks):
        resolve(TASKS["voc_c4"].config, overrides=pairs)
    with pytest.raises(ConfigError, match=r"Add: MODEL\.RESNETS\.RES2_OUT_CHANNELS 64"):
        resolve(fpn, overrides=pairs[:2])


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        [{"image": i} for i in torch.randint(0, 256, (2, 3, 64, 64), generator=generator).float()]
        for _ in range(count)
    ]


def pixels(built, batch):
    return built.preprocess_image(batch).tensor


@pytest.mark.parametrize("task", ["coco_fpn", "coco_c4"])
def test_a_frozen_trunk_normalizes_as_bn_does_on_the_same_batch(task):
    frozen, live = (model(task, *PLAIN_BN, "MODEL.BACKBONE.FREEZE_AT", at) for at in ("5", "0"))
    live.load_state_dict(frozen.state_dict())
    (batch,) = batches(1)
    count = recompute_frozen_bn(frozen, [batch], 1)
    trunks = [getattr(built.backbone, "bottom_up", built.backbone) for built in (frozen, live)]
    assert count == sum(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules()) > 40
    with torch.no_grad():
        ours = trunks[0].eval()(pixels(frozen, batch))
        theirs = trunks[1].train()(pixels(live, batch))
    for name, expected in theirs.items():
        # of one batch of 8 values and more per channel; that of BN's own variance is biased
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_a_frozen_trunk_gets_the_statistics_of_all_batches_and_nothing_else_changes():
    frozen, many = model("coco_fpn", *PLAIN_BN, "MODEL.BACKBONE.FREEZE_AT", "5"), batches(3)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    trainable = {name for name, value in frozen.named_parameters() if value.requires_grad}
    recompute_frozen_bn(frozen, many, 3)
    stem = frozen.backbone.bottom_up.stem.conv1
    with torch.no_grad():
        outputs = [F.conv2d(pixels(frozen, b), stem.weight, stride=2, padding=3) for b in many]
    values = torch.cat(outputs).transpose(0, 1).flatten(1)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(stem.norm.running_mean, values.mean(1), **close)
    torch.testing.assert_close(stem.norm.running_var, values.var(1, correction=0), **close)

    after = frozen.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert all(
        name.startswith("backbone.bottom_up.") and name.endswith(("running_mean", "running_var"))
        for name in changed
    )
    assert trainable == {name for name, value in frozen.named_parameters() if value.requires_grad}


def test_a_trunk_that_is_not_frozen_is_refused():
    with pytest.raises(ConfigError, match=r"Add: MODEL\.BACKBONE\.FREEZE_AT 5"):
        recompute_frozen_bn(model("coco_fpn", *PLAIN_BN), batches(1), 1)
