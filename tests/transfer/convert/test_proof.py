import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from tests.golden_fill import image
from tests.transfer.convert.layouts import GOLDEN, filled, released
from transfer.config import resolve
from transfer.convert import CheckpointError, proof
from transfer.convert.__main__ import main
from transfer.convert.backbones import find_backbone
from transfer.convert.layouts import RGB
from transfer.tasks import TASKS

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


def test_the_proof_catches_strides_in_the_wrong_convolution(trunk):
    backbone = find_backbone(trunk)
    wrong = RGB | {"MODEL.RESNETS.STRIDE_IN_1X1": True}
    with pytest.raises(CheckpointError, match=r"res3: C4 \S+, FPN .*STRIDE_IN_1X1 True") as caught:
        proof.prove(backbone.torchvision, backbone.detectron2, wrong, 50)
    assert "stem" not in str(caught.value)
    assert "res2" not in str(caught.value)


def test_the_proof_catches_swapped_and_unloaded_entries(trunk):
    backbone = find_backbone(trunk)
    swapped = dict(backbone.detectron2)
    names = ("res4.3.conv2.norm.weight", "res4.3.conv1.norm.weight")
    swapped[names[0]], swapped[names[1]] = (swapped[name] for name in reversed(names))
    with pytest.raises(CheckpointError, match=r"differ from the source's.*res4"):
        proof.prove(backbone.torchvision, swapped, RGB, 50)
    lacking = dict(backbone.detectron2)
    del lacking["res5.0.shortcut.weight"]
    with pytest.raises(
        CheckpointError, match=r"1 entries were not loaded .*R50-C4 \(roi_heads\.res5\.0\.shortcut"
    ):
        proof.prove(backbone.torchvision, lacking, RGB, 50)
    with pytest.raises(CheckpointError, match=r"not loaded into Detectron2's R50-C4 \(res6"):
        proof.prove(backbone.torchvision, backbone.detectron2 | {"res6.x": torch.zeros(1)}, RGB, 50)


def test_a_source_whose_own_features_are_not_finite_is_refused(trunk):
    backbone = find_backbone(trunk | {"layer4.2.bn3.running_var": torch.full((2048,), -1.0)})
    with pytest.raises(CheckpointError, match="source's own features are not finite"):
        proof.prove(backbone.torchvision, backbone.detectron2, RGB, 50)
