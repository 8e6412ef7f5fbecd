"""The statistics of a frozen trunk, against BN itself and the definition."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch.nn import functional as F

from pretrain.runtime.config import ConfigError
from transfer.config import resolve
from transfer.weights import recompute_frozen_bn
from transfer.tasks import TASKS

ON_CPU = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN"]


def model_of(task, freeze_at):
    torch.manual_seed(0)
    words = [*ON_CPU, "MODEL.BACKBONE.FREEZE_AT", str(freeze_at)]
    return build_model(resolve(TASKS[task].config, overrides=words))


def batches(count, images=2, side=64):
    generator = torch.Generator().manual_seed(1)
    size = (images, 3, side, side)
    return [
        [{"image": image} for image in torch.randint(0, 256, size, generator=generator).float()]
        for _ in range(count)
    ]


def pixels(model, batch):
    return model.preprocess_image(batch).tensor


@pytest.mark.parametrize("task", ["coco_fpn", "coco_c4"])
def test_a_frozen_trunk_normalizes_as_bn_does_on_the_same_batch(task):
    frozen, live = model_of(task, freeze_at=5), model_of(task, freeze_at=0)
    live.load_state_dict(frozen.state_dict())
    (batch,) = batches(1)
    count = recompute_frozen_bn(frozen, [batch], 1)
    trunks = [getattr(model.backbone, "bottom_up", model.backbone) for model in (frozen, live)]
    assert count == sum(isinstance(m, FrozenBatchNorm2d) for m in frozen.modules()) > 40
    with torch.no_grad():
        ours = trunks[0].eval()(pixels(frozen, batch))
        theirs = trunks[1].train()(pixels(live, batch))
    for name, expected in theirs.items():
        # of one batch of 8 values and more per channel; that of BN's own variance is biased
        torch.testing.assert_close(ours[name], expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_the_first_layer_has_the_statistics_of_all_pixels_of_all_batches():
    model = model_of("coco_fpn", freeze_at=5)
    many = batches(3)
    recompute_frozen_bn(model, many, 3)
    convolution = model.backbone.bottom_up.stem.conv1
    with torch.no_grad():
        outputs = [
            F.conv2d(pixels(model, batch), convolution.weight, stride=2, padding=3)
            for batch in many
        ]
    values = torch.cat(outputs).transpose(0, 1).flatten(1)
    norm = convolution.norm
    torch.testing.assert_close(norm.running_mean, values.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var, values.var(1, correction=0), rtol=1e-4, atol=1e-4)


def test_only_statistics_of_the_trunk_change():
    model = model_of("coco_fpn", freeze_at=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainable = {name for name, value in model.named_parameters() if value.requires_grad}
    recompute_frozen_bn(model, batches(2), 2)
    after = model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(
        name.startswith("backbone.bottom_up.") and name.endswith(("running_mean", "running_var"))
        for name in changed
    )
    assert not any(name.startswith("backbone.bottom_up.") for name in trainable)
    assert trainable == {name for name, value in model.named_parameters() if value.requires_grad}


def test_a_trunk_that_is_not_frozen_is_refused():
    model = model_of("coco_fpn", freeze_at=0)
    with pytest.raises(ConfigError, match=r"Add: MODEL\.BACKBONE\.FREEZE_AT 5"):
        recompute_frozen_bn(model, batches(1), 1)
