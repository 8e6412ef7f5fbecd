"""The loop as a GPU would see it: what waits, what is copied and launched, what is held."""

import contextlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.fx import GraphModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from benchmarks.speed.cost import held, load_cost
from pretrain.methods import METHODS, build_model, complete
from pretrain.runtime import checkpoints, distributed
from pretrain.runtime.distributed import SyncBatchNorm, synchronize_batch_norm
from pretrain.train import compile_parts, train
from tests.fake_cuda import fake_cuda
from tests.pretrain.tiny import config, write_images

# Where the host may wait: what it tells or writes needs the numbers
MAY_WAIT = ("pretrain/monitor/", "pretrain/run.py:save")
MICRO_STEPS, STEPS = 6, 3


def save(folder, step, content, keep):
    """A checkpoint without its tensors, which are nowhere."""
    path = Path(folder, "checkpoints", f"step_{step:08d}.pth")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


class PassOn(nn.Module):
    """DistributedDataParallel, of which the reducer needs real memory."""

    def __init__(self, module, *_, **__):
        super().__init__()
        self.module = module

    def forward(self, *inputs):
        return self.module(*inputs)

    def no_sync(self):
        return contextlib.nullcontext()


@contextlib.contextmanager
def one_of_eight():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    with (
        mock.patch.object(nn.parallel, "DistributedDataParallel", PassOn),
        mock.patch.object(distributed, "barrier"),
        mock.patch.object(distributed, "all_gather", lambda value: [value] * 8),
    ):
        try:
            yield
        finally:
            dist.destroy_process_group()


def trace(images, folder, **changes):
    """Of a whole run on fakes whose gradients stay 0."""
    cfg = config(images, folder, DEVICE="cuda", SOLVER__COMPILE=False, **changes)
    with (
        fake_cuda() as device,
        mock.patch.object(checkpoints, "save", save),
        mock.patch.object(torch.Tensor, "backward"),
    ):
        train(cfg)
    return device.trace


def in_loop(events):
    """Without set-up and what is told of the steps."""
    return [
        event
        for event in events
        if event.within("pretrain/train.py:loop") and not event.within(*MAY_WAIT)
    ]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("precision", "ranks"), [("fp32", 1), ("bf16", 1), ("fp16", 1), ("bf16", 8)]
)
def test_nothing_waits_within_a_step(tmp_path, method, precision, ranks):
    changes = {"METHOD__NAME": method, "SOLVER__PRECISION": precision, "MONITOR__PERIOD": 2}
    changes |= {"MONITOR__IMAGES": 2, "SOLVER__TOTAL_BATCH_SIZE": 4 * ranks}
    with one_of_eight() if ranks == 8 else contextlib.nullcontext():
        found = trace(write_images(tmp_path / "images", 4 * ranks), tmp_path / "run", **changes)
    waits = in_loop(found.syncs)
    if precision == "fp16":  # the scaler asks whether a gradient overflowed, once a step
        assert len(waits) == STEPS
        assert all(event.within("pretrain/run.py:update") for event in waits)
    else:
        assert not waits
    copies = in_loop(found.copies)
    assert not any(event.detail for event in copies), "blocking"
    assert len(copies) <= 4 * MICRO_STEPS
    convolved = [event for event in in_loop(found.convolved) if event.within("pretrain/methods/")]
    assert convolved
    if precision != "bf16":  # whose layout torch chooses by what the driver says
        assert all(event.detail for event in convolved), "not channels last"
    slow = [event for event in in_loop(found.lists) if not event.detail]
    assert all(event.within("pretrain/optim.py:step") for event in slow)
    assert len(slow) <= STEPS, "but for each tensor's own ratio in LARS"


@pytest.mark.parametrize("method", METHODS)
def test_networks_and_loss_are_one_graph_each_with_the_bn_of_several_gpus(method, monkeypatch):
    """Without a break at any BN; by the same code as on GPUs, since compilers get BN's formula."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **k: original(*a, **k | {"backend": backend}))
    cfg = complete(config("images", "run", METHOD__NAME=method))
    model = build_model(cfg).train()
    views = torch.randn(2, 2, 3, 96, 96), torch.randn(1, 2, 3, 32, 32), torch.rand(3, 2, 4)
    with one_of_eight():
        model = synchronize_batch_norm(model)
        compile_parts(model, logging.getLogger("pretrain"))
        model(*views)["loss"].backward()
    reduced = [
        sum(str(m.graph).count("all_reduce") for m in graph.modules() if isinstance(m, GraphModule))
        for graph in graphs
    ]
    layers = sum(isinstance(module, SyncBatchNorm) for module in model.student.modules())
    # Loss, teacher, and student of two resolutions, forward and backward
    assert sorted(reduced) == [0, layers, 2 * layers, 2 * layers]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("size", "precision"), [(64, "bf16"), (256, "bf16"), (256, "fp32")])
def test_a_step_of_the_recipe_keeps_its_budget(size, precision):
    """In a process of its own, where fakes can go backward."""
    command = [sys.executable, "-m", "tests.pretrain.traced_step", str(size), precision]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, counted = json.loads(done.stdout), load_cost()["pretraining"]
    assert found["syncs"] == 0
    assert found["copies"] <= 4
    assert found["launches"]["update"] <= 200
    assert found["launches"]["views"] <= 210  # 40 when compiled
    memory = held(counted["memory_bytes"], size, precision) / 1e9
    assert found["held"]["backward"] == pytest.approx(memory, rel=0.03)
    assert found["peak"] <= 1.01 * found["held"]["backward"]
    traffic = sum(found["gb"][part] for part in ("views", "forward", "backward"))
    of_256 = counted["traffic_gb"]["eager"][precision]
    assert traffic == pytest.approx(of_256 * size / 256, rel=0.03)
