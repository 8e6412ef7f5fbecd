"""The one place that decides about SyncBN."""

import logging

import pytest
import torch
from torch import nn

from pretrain.runtime import distributed


@pytest.mark.parametrize(
    ("ranks", "device", "kind", "warns"),
    [
        (1, "cuda", nn.BatchNorm2d, False),
        (1, "cpu", nn.BatchNorm2d, False),
        (2, "cuda", nn.SyncBatchNorm, False),
        (2, "cpu", nn.BatchNorm2d, True),
    ],
)
def test_bn_is_synchronized_over_several_gpus_and_a_warning_says_where_it_cannot_be(
    monkeypatch, caplog, ranks, device, kind, warns
):
    monkeypatch.setattr(distributed, "world_size", lambda: ranks)
    monkeypatch.setattr(logging.getLogger("pretrain"), "propagate", True)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    model = distributed.synchronize_batch_norm(model, torch.device(device))
    assert type(model[1]) is kind
    assert ("SyncBN needs GPUs" in caplog.text) == warns
