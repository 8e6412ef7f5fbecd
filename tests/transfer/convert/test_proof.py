import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from pretrain.encoder import STAGES
from tests.golden_fill import image
from tests.transfer.convert.layouts import GOLDEN, filled, random_trunk, released
from transfer.config import resolve
from transfer.convert import CheckpointError, load_converted, proof
from transfer.convert.__main__ import main
from transfer.convert.backbones import find_backbone
from transfer.convert.layouts import RGB
from transfer.tasks import TASKS

R50 = {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.RES2_OUT_CHANNELS": 256}
CONFIG = RGB | R50
pytestmark = pytest.mark.usefixtures("one_thread")


def detectron2_models():
    """Whole detectors, as a fine-tuning builds them."""
    for kind, task in (("C4", "coco_c4"), ("FPN", "coco_fpn")):
        overrides = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]
        yield kind, build_model(resolve(TASKS[task].config, overrides=overrides)).eval()


def test_golden_c5_comes_out_of_whole_detectors_loaded_from_the_written_file(
    tmp_path,
):
    golden = np.load(GOLDEN / "model_backbone_eval.npz")
    source, out = tmp_path / "ckpt_epoch_200.pth", tmp_path / "backbone.pth"
    torch.save(released(filled(trained_statistics=True)), source)
    assert main([str(source), str(out)]) == 0
    size = int(golden["size"])
    images = torch.from_numpy(image("backbone_eval", (int(golden["n"]), 3, size, size)))
    for kind, model in detectron2_models():
        DetectionCheckpointer(model).load(str(out))
        with torch.no_grad():
            if kind == "C4":
                c5 = model.roi_heads.res5[:3](model.backbone(images)["res4"])
            else:
                c5 = model.backbone.bottom_up(images)["res5"]
        difference = np.abs(c5.numpy() - golden["c5"]).max()
        assert difference <= 1e-4 * np.abs(golden["c5"]).max(), kind


@pytest.mark.parametrize("depth", [18, 34])
def test_a_small_trunk_gives_torchvisions_features_in_an_fpn_built_by_the_pairs_it_needs(
    depth, tmp_path, capsys
):
    encoder = random_trunk(f"resnet{depth}")
    source, out = tmp_path / "small.pth", tmp_path / "backbone.pth"
    torch.save(encoder.state_dict(), source)
    assert main([str(source), str(out), "--method", "other"]) == 0
    said = capsys.readouterr().out
    assert "C4" not in said
    config = load_converted(out)["meta"]["config"]
    assert config["MODEL.RESNETS.DEPTH"] == depth
    assert all(f"{key} {value}\n" in said for key, value in config.items())
    pairs = [str(word) for pair in config.items() for word in pair]
    norm = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]
    model = build_model(resolve(TASKS["coco_fpn"].config, overrides=[*norm, *pairs])).eval()
    DetectionCheckpointer(model).load(str(out))
    images = torch.rand(2, 3, 96, 128)
    with torch.no_grad():
        expected, found = encoder.stages(images), model.backbone.bottom_up(images)
    for stage, features in found.items():
        difference = (features - expected[stage]).abs().max()
        assert difference <= 1e-4 * expected[stage].abs().max(), stage
    assert list(found) == list(STAGES[1:])


def test_the_proof_catches_strides_in_the_wrong_convolution(trunk):
    backbone = find_backbone(trunk)
    wrong = CONFIG | {"MODEL.RESNETS.STRIDE_IN_1X1": True}
    with pytest.raises(CheckpointError, match=r"res3: C4 \S+  FPN .*STRIDE_IN_1X1 True") as caught:
        proof.prove(backbone.torchvision, backbone.detectron2, wrong)
    assert "stem" not in str(caught.value)
    assert "res2" not in str(caught.value)


def test_the_proof_catches_swapped_and_unloaded_entries(trunk):
    backbone = find_backbone(trunk)
    swapped = dict(backbone.detectron2)
    names = ("res4.3.conv2.norm.weight", "res4.3.conv1.norm.weight")
    swapped[names[0]], swapped[names[1]] = (swapped[name] for name in reversed(names))
    with pytest.raises(CheckpointError, match=r"differ from the source's.*res4"):
        proof.prove(backbone.torchvision, swapped, CONFIG)
    lacking = dict(backbone.detectron2)
    del lacking["res5.0.shortcut.weight"]
    with pytest.raises(
        CheckpointError, match=r"1 entries were not loaded .*R50-C4 \(roi_heads\.res5\.0\.shortcut"
    ):
        proof.prove(backbone.torchvision, lacking, CONFIG)
    with pytest.raises(CheckpointError, match=r"not loaded into Detectron2's R50-C4 \(res6"):
        proof.prove(backbone.torchvision, backbone.detectron2 | {"res6.x": torch.zeros(1)}, CONFIG)


def test_a_source_whose_own_features_are_not_finite_is_refused(trunk):
    backbone = find_backbone(trunk | {"layer4.2.bn3.running_var": torch.full((2048,), -1.0)})
    with pytest.raises(CheckpointError, match="source's own features are not finite"):
        proof.prove(backbone.torchvision, backbone.detectron2, CONFIG)
