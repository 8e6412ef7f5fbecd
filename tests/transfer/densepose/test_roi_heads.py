"""The DensePose branch as a whole: golden outputs, losses and gradients; what batches it bears."""

import json

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from tests.transfer.densepose.cases import MAPS, annotations_of, load, proposals, random_proposals
from transfer.config import resolve
from transfer.densepose.roi_heads import DensePoseROIHeads, select_annotated

RECIPES = {"decoder": "s1x", "nodecoder": "s1x_legacy"}
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.FPN.NORM": "BN",
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_DENSEPOSE_HEAD.CONV_HEAD_DIM": 8,
    "MODEL.ROI_DENSEPOSE_HEAD.NUM_STACKED_CONVS": 2,
    "MODEL.ROI_DENSEPOSE_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_DENSEPOSE_HEAD.HEATMAP_SIZE": 28,
    "MODEL.ROI_DENSEPOSE_HEAD.DECODER_CONV_DIMS": 8,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 4,
}


def config(recipe, overrides):
    words = [str(word) for pair in overrides.items() for word in pair]
    return resolve(f"configs/transfer/densepose/densepose_rcnn_R_50_FPN_{recipe}.yaml", None, words)


@pytest.fixture(params=RECIPES)
def branch(request):
    """Golden file, heads with its weights, and its FPN maps."""
    golden = load(f"roiheads_{request.param}")
    overrides = json.loads(str(golden["cfg_overrides"])) | {"MODEL.FPN.OUT_CHANNELS": 6}
    cfg = config(RECIPES[request.param], overrides)
    shapes = {f"p{n}": ShapeSpec(channels=6, stride=2**n) for n in range(2, 6)}
    heads = DensePoseROIHeads(cfg, shapes)
    weights = {
        name.removeprefix("w:roi_heads."): torch.from_numpy(value)
        for name, value in golden.items()
        if name.startswith("w:")
    }
    missing, unexpected = heads.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(name.startswith("box_") for name in missing)
    return golden, heads, {name: torch.from_numpy(golden[f"feat_{name}"]) for name in shapes}


@torch.no_grad()
def test_inference_is_upstreams(branch):
    golden, heads, features = branch
    heads.eval()
    images = []
    for number in range(2):
        image = Instances((192, 256))
        image.pred_boxes = Boxes(torch.from_numpy(golden[f"infer_boxes_im{number}"]))
        image.pred_classes = torch.zeros(len(image), dtype=torch.int64)
        images.append(image)
    found = heads.forward_with_given_boxes(features, images)
    for number, image in enumerate(found):
        for field in MAPS:
            expected = golden[f"infer_im{number}_{field}"]
            np.testing.assert_allclose(getattr(image.pred_densepose, field), expected, atol=1e-4)


def test_training_is_upstreams(branch):
    golden, heads, features = branch
    kinds = {"kind": golden["train_annotated"], "has_segm": golden["train_annotated"]}
    named = {name.removeprefix("train_"): value for name, value in golden.items()}
    entries = annotations_of(named | kinds)
    images = []
    for number in range(2):
        chosen = np.flatnonzero(golden["train_image_index"] == number)
        boxes = [golden[f"train_{kind}_boxes"][chosen] for kind in ("proposal", "gt")]
        classes = golden["train_gt_classes"][chosen]
        images.append(proposals(*boxes, [entries[n] for n in chosen], classes))
    losses = heads._densepose_losses(features, images)
    found = [float(losses[name].detach()) for name in golden["loss_names"]]
    np.testing.assert_allclose(found, golden["train_losses"], rtol=1e-5)
    sum(losses.values()).backward()
    parameters = dict(heads.named_parameters())
    gradients = [name for name in golden if name.startswith("grad:")]
    assert gradients
    for name in gradients:
        found = parameters[name.removeprefix("grad:roi_heads.")].grad
        np.testing.assert_allclose(found, golden[name], atol=1e-4)


@pytest.mark.parametrize("image", range(3))
def test_proposals_are_kept_as_upstream_does(image):
    golden = {name[4:]: value for name, value in load("filter").items() if name[:3] == f"im{image}"}
    threshold = float(load("filter")["threshold"])
    rows = random_proposals(0, [[1] * len(golden["annotated"])])[0].gt_densepose
    entries = [row if has else None for row, has in zip(rows, golden["annotated"], strict=True)]
    candidates = proposals(golden["proposal_boxes"], golden["gt_boxes"], entries)
    candidates.row = torch.arange(len(candidates))
    np.testing.assert_array_equal(select_annotated(candidates, threshold).row, golden["kept"])


def batch(kinds):
    """Mapped training images: for each a list of persons, 0 not annotated, 1 annotated."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for image_kinds in kinds:
        (people,) = random_proposals(0, [image_kinds])
        truth = Instances((160, 160))
        truth.gt_boxes, truth.gt_classes = people.gt_boxes, people.gt_classes
        if people.has("gt_densepose"):
            truth.gt_densepose = people.gt_densepose
        pixels = 255 * torch.rand(3, 160, 160, generator=generator)
        images.append({"image": pixels, "instances": truth, "height": 160, "width": 160})
    return images


@pytest.fixture(scope="module", params=RECIPES.values())
def model(request):
    torch.manual_seed(0)
    return build_model(config(request.param, SMALL))


@pytest.mark.parametrize(
    "kinds", [[[1, 1], [1]], [[1, 0], [0, 0]], [[0], [1]], [[0, 0], [0]], [[], []], [[], [1]]]
)
def test_mixed_unannotated_and_empty_batches_reach_every_parameter(model, kinds, one_thread):
    model.train().zero_grad()
    with EventStorage():
        losses = model(batch(kinds))
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert {f"loss_densepose_{name}" for name in "UVIS"} < losses.keys()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    annotated = any(any(image) for image in kinds)
    assert (losses["loss_densepose_I"] > 0) == annotated
    assert (losses["loss_densepose_S"] > 0) == annotated


@torch.no_grad()
def test_without_any_detection_there_is_no_field(model, one_thread):
    model.eval()
    images = [{"image": image["image"], "height": 80, "width": 80} for image in batch([[], []])]
    threshold = model.roi_heads.box_predictor.test_score_thresh
    try:
        model.roi_heads.box_predictor.test_score_thresh = 2.0
        assert not any(image["instances"].has("pred_densepose") for image in model(images))
        model.roi_heads.box_predictor.test_score_thresh = 0.0
        found = [image["instances"] for image in model(images)]
    finally:
        model.roi_heads.box_predictor.test_score_thresh = threshold
    assert all(len(image) for image in found)
    assert all(len(image.pred_densepose) == len(image) for image in found)
