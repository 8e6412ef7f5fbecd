import warnings

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import build_model
from torch import nn

from pretrain.runtime.distributed import SyncBatchNorm, synchronize_batch_norm
from transfer.config import resolve
from transfer.tasks import TASKS


def res5(norm):
    overrides = ["MODEL.RESNETS.NORM", norm, "MODEL.DEVICE", "cpu"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*_build_res5_block.*")
        return build_model(resolve(TASKS["coco_c4"].config, overrides=overrides)).roi_heads.res5


@pytest.fixture(scope="module")
def synchronized():
    return res5("SyncBN")


def test_extra_norm_is_the_trunks_and_normalizes_2048_channels(synchronized):
    names = [name for name in synchronized.state_dict() if name.startswith("norm.")]
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names == [f"norm.{kind}" for kind in kinds]
    assert isinstance(synchronized.norm, nn.SyncBatchNorm)
    assert synchronized.norm.num_features == 2048
    plain = res5("BN")
    assert type(plain.norm) is type(plain[0].conv1.norm)


def test_extra_norm_starts_at_identity_comes_after_the_whole_stage_and_learns(synchronized):
    features = torch.randn(2, 1024, 6, 6, generator=torch.Generator().manual_seed(0))
    blocks = nn.Sequential(*synchronized[:3])
    with torch.no_grad():
        expected, found = blocks.eval()(features), synchronized.eval()(features)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)

    output = synchronized.train()(features)
    torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(2048), rtol=0, atol=1e-5)
    output.square().sum().backward()
    assert synchronized.norm.weight.grad.abs().max() > 0
    assert torch.isfinite(synchronized.norm.bias.grad).all()


def test_of_detectron2s_norms_only_syncbn_is_replaced_and_a_batch_may_have_no_boxes():
    head = nn.Sequential(
        Conv2d(3, 4, 1, norm=get_norm("SyncBN", 4)), Conv2d(4, 4, 1, norm=get_norm("BN", 4))
    )
    synchronize_batch_norm(head, nn.SyncBatchNorm)
    assert [type(layer.norm) is SyncBatchNorm for layer in head] == [True, False]
    output = head[0](torch.zeros(0, 3, 7, 7))
    output.sum().backward()
    assert output.shape == (0, 4, 7, 7)
    assert head[0].norm.weight.grad.eq(0).all()
    assert head[0].norm.running_var.eq(1).all()
