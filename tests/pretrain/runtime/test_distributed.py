"""SyncBN: several processes normalize as one does with the whole batch."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from pretrain.runtime.distributed import SyncBatchNorm, synchronize_batch_norm

CHANNELS, SIDE = 3, 4
SHARES = [(4, 4), (3, 5), (8, 0), (0, 0)]  # images of rank 0 and rank 1
EAGER = list(itertools.product([False], SHARES, [torch.float64, torch.float32]))
COMPILED = (True, (3, 5), torch.float64)
ATOL = {torch.float64: 1e-9, torch.float32: 2e-4}


def network(dtype=torch.float64):
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(CHANNELS)
    nn.init.normal_(norm.weight)
    return nn.Sequential(norm, nn.ReLU(), nn.BatchNorm2d(CHANNELS, affine=False)).to(dtype)


def batch(count, dtype=torch.float64):
    """Values and the gradients of what comes out; the mean is 100 times the deviation."""
    generator = torch.Generator().manual_seed(0)
    size = (count, CHANNELS, SIDE, SIDE)
    both = torch.randn(2, *size, generator=generator, dtype=torch.float64)
    return (both[0] + 100).to(dtype), both[1].to(dtype)


def passed(model, values, gradients):
    """Outputs, gradients of inputs and parameters, running statistics."""
    values = values.clone().requires_grad_()
    output = model(values)
    output.backward(gradients)
    of = {name: parameter.grad for name, parameter in model.named_parameters()}
    return output.detach(), values.grad, of, dict(model.named_buffers())


def as_rank(rank, folder):
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for case in (*EAGER, COMPILED):
        compiled, shares, dtype = case
        model = synchronize_batch_norm(network(dtype))
        if compiled:
            model.compile(fullgraph=True, dynamic=False, backend="aot_eager")
        own = [each.split([*shares])[rank] for each in batch(sum(shares), dtype)]
        results[case] = passed(model, *own)
    torch.save(results, f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(as_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pth") for rank in (0, 1)]


@pytest.mark.parametrize("case", [case for case in (*EAGER, COMPILED) if any(case[1])])
def test_two_processes_normalize_as_one(ranks, case):
    _, shares, dtype = case
    expected, atol = passed(network(), *batch(sum(shares))), ATOL[dtype]
    two = [results[case] for results in ranks]
    close = {"rtol": 0.0, "atol": atol, "check_dtype": False}
    for n in (0, 1):  # outputs, gradients of the inputs
        both = torch.cat([each[n] for each in two])
        assert both.dtype == dtype
        torch.testing.assert_close(both, expected[n], **close)
    for name, gradient in expected[2].items():
        found = two[0][2][name] + two[1][2][name]
        torch.testing.assert_close(found, gradient, rtol=100 * atol, atol=atol, check_dtype=False)
    for name, value in expected[3].items():
        for each in two:
            torch.testing.assert_close(each[3][name], value, **close, msg=name)


def test_ranks_without_values_learn_nothing_and_do_not_wait(ranks):
    for results in ranks:
        output, gradient, of, buffers = results[False, (0, 0), torch.float64]
        assert output.shape == gradient.shape == (0, CHANNELS, SIDE, SIDE)
        assert not of["0.weight"].any()
        torch.testing.assert_close(buffers["0.running_mean"], torch.zeros(CHANNELS).double())
        assert buffers["0.running_var"].eq(1).all()


def test_parameters_and_buffers_stay_and_keep_their_names():
    model = network()
    before = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    synchronized = synchronize_batch_norm(copy.copy(model))
    assert isinstance(synchronized[0], SyncBatchNorm)
    assert isinstance(synchronized[2], SyncBatchNorm)
    after = {**dict(synchronized.named_parameters()), **dict(synchronized.named_buffers())}
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert get_bn_modules(synchronized) == [synchronized[0], synchronized[2]]


def test_in_one_process_it_is_ordinary_bn():
    values = batch(4)
    for found, expected in zip(
        passed(synchronize_batch_norm(network()), *values), passed(network(), *values), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
