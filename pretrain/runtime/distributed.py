"""Where a run computes: one process or many, on which device, in which precision."""

import argparse
import contextlib
import functools
import logging
import os
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.runtime.config import ConfigError


def setup(device: str = "auto", timeout_minutes: float = 30.0) -> torch.device:
    """Join the process group that torchrun announces, if any, and return this rank's device.

    device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``. CUDA ranks talk through NCCL,
    CPU ranks through gloo. Raises ConfigError for another device, or cuda without a GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"DEVICE {device!r} is not auto, cpu or cuda")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    if device == "cuda" and not use_cuda:
        raise ConfigError("DEVICE cuda was asked for, but torch finds no GPU: use DEVICE auto")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if use_cuda else "gloo", timeout=timedelta(minutes=timeout_minutes)
        )
    return chosen


class PeerLost(RuntimeError):
    """Another process has ended, or does not answer."""


@contextlib.contextmanager
def peers_answer() -> Iterator[None]:
    """Raise PeerLost where another process ends, or does not answer before the time-out.

    NCCL may end this process itself then, with a message of its own.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no type of their own
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2]
        raise PeerLost(
            f"rank {rank()} of {world_size()} ends, since another one ended or did not answer in "
            f"time ({reason}); its own messages say why. --resume goes on from the last checkpoint"
        ) from error


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for every rank."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean of ``values`` over the ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= world_size()
    return values


def all_gather(value: Any) -> list[Any]:
    """Every rank's ``value``, of any type that pickles, in their order."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


class SyncBatchNorm(nn.BatchNorm2d):
    """BN over the batch of all ranks: one all-reduce of sums forward, and one backward.

    ``nn.SyncBatchNorm`` gathers what every rank has, and drops the ranks without values, for which
    the host waits at every layer; compilers break their graph there, and CPUs have none. Sums need
    neither. Inputs (N,C,...) of any floating type: N and what follows C may differ between the
    ranks, and be 0. All ranks must call it in training. Parameters and buffers have the usual
    names. Of BatchNorm2d, as fvcore's PreciseBN knows a BN by its class.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, input: Tensor) -> Tensor:
        """(N,C,...) → the same shape and type."""
        if not self.training or (world_size() == 1 and input.numel()):
            return super().forward(input)
        output, mean, variance, count = OverAllRanks.apply(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = self.momentum * count.clamp(
                max=1
            )  # nothing is learnt where no rank has a value
            self.running_mean.lerp_(mean.to(self.running_mean), share.to(self.running_mean))
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var), share.to(self.running_var))
        return output


def synchronize_batch_norm(model: nn.Module, kind: type[nn.Module] = _BatchNorm) -> nn.Module:
    """``model`` with SyncBatchNorm in the place of every BN that is a ``kind``.

    Parameters and buffers stay what and where they are.
    """
    for name, child in model.named_children():
        setattr(model, name, synchronize_batch_norm(child, kind))
    if not isinstance(model, kind):
        return model
    synchronized = SyncBatchNorm(model.num_features, model.eps, model.momentum, model.affine)
    synchronized._parameters, synchronized._buffers = model._parameters, model._buffers
    return synchronized.train(model.training)


class OverAllRanks(torch.autograd.Function):
    """(N,C,...) → normalized, and mean, biased variance and count over all ranks, in float64.

    In float64 the sums of squares do not cancel where a mean is far above the deviation.
    """

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, ctx.fused = _dense(x), x.is_cuda and not torch.compiler.is_compiling()
        if not x.numel():
            mean = variance = x.new_zeros(x.shape[1], dtype=torch.float64)
        elif ctx.fused:
            mean, inverse = torch.batch_norm_stats(x, 0.0)
            mean, variance = mean.double(), inverse.double().pow(-2)
        else:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            variance, mean = torch.var_mean(wide, _all_but_channels(x), correction=0)
            mean, variance = mean.double(), variance.double()
        count = mean.new_full((1,), x.numel() // x.shape[1])
        sums = torch.cat([count * mean, count * (variance + mean.square()), count])
        if world_size() > 1:
            dist.all_reduce(sums)
        count = sums[-1]
        mean, square = (sums[:-1] / count.clamp(min=1)).chunk(2)
        variance = (square - mean.square()).clamp(min=0)
        kind = torch.promote_types(x.dtype, torch.float32)
        used = mean.to(kind), (variance + eps).rsqrt().to(kind)
        ctx.save_for_backward(x, weight, *used, count)
        ctx.mark_non_differentiable(mean, variance, count)
        if ctx.fused and x.numel():
            output = torch.batch_norm_elemt(x, weight, bias, *used, eps)
        else:
            output = (x.to(kind) - _beside(used[0], x)) * _beside(used[1], x)
            if weight is not None:
                output = output * _beside(weight, x) + _beside(bias, x)
            output = output.to(x.dtype)
        return output, mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        of_weight = of_bias = None
        if ctx.fused and x.numel():
            gradient = _dense(gradient, x)
            same = gradient, x, mean, inverse, weight
            *sums, of_weight, of_bias = torch.batch_norm_backward_reduce(*same, True, True, True)
        else:
            gradient, centered = gradient.to(mean.dtype), x.to(mean.dtype) - _beside(mean, x)
            dimensions = _all_but_channels(x)
            sums = [gradient.sum(dimensions), (gradient * centered).sum(dimensions)]
            if weight is not None:
                of_weight, of_bias = sums[1] * inverse, sums[0]
        sums = torch.stack(sums)
        if world_size() > 1:
            dist.all_reduce(sums)
        if ctx.fused and x.numel():
            counts = count.to(torch.int32).view(1)
            of_x = torch.batch_norm_backward_elemt(*same, *sums, counts)
        else:
            total, product = sums / count.to(mean.dtype).clamp(min=1)
            of_x = gradient - _beside(total, x) - centered * _beside(product * inverse.square(), x)
            scale = inverse if weight is None else inverse * weight
            of_x = (of_x * _beside(scale, x)).to(x.dtype)
        return of_x, of_weight, of_bias, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """(C,) as it stands beside (N,C,...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _dense(x: Tensor, like: Tensor | None = None) -> Tensor:
    """With the channels where ``like`` has them in memory, last or not, as kernels ask for it."""
    like = x if like is None else like
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@functools.cache
def cpu_has_bf16() -> bool:
    """Whether convolutions in bf16 have a fast path on this processor: AVX-512, or Arm's bf16.

    Without it, ResNet-50 took 12 times as long in bf16 as in fp32, forward and backward.
    """
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast_dtype(
    asked: torch.dtype | None, device_type: str, logger: logging.Logger
) -> torch.dtype | None:
    """What autocast computes in: ``asked``, but None (fp32), and a warning, for bf16 on a CPU
    that has none."""
    if asked is not torch.bfloat16 or device_type != "cpu" or cpu_has_bf16():
        return asked
    logger.warning(
        "bf16 was asked for, but this processor has none and would take many times as long with it "
        "as in fp32: computing in fp32. The numbers are not those of bf16 to the last digit"
    )
    return None


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (CPU and GPU) for this process."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def add_launch_flags(parser: argparse.ArgumentParser) -> None:
    """Detectron2's own, in torchrun's place."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, metavar="N", help="processes a machine; default 1")
    add("--num-machines", type=int, default=1, metavar="N", help="default 1")
    add("--machine-rank", type=int, default=0, metavar="K", help="this machine's number, from 0")
    add("--dist-url", metavar="tcp://HOST:PORT", help="machine 0's; needed for several machines")


def launch(args: argparse.Namespace, module: str, arguments: Sequence[str]) -> None:
    """Become torchrun with ``module`` and ``arguments``, unless torchrun runs us already.

    args: with the flags above. Raises ConfigError for a number of processes that torchrun
    contradicts, and where several machines have no address to meet at.
    """
    processes = args.num_gpus * args.num_machines
    if processes == 1:  # torchrun's own number counts
        return
    if "WORLD_SIZE" in os.environ:
        if int(os.environ["WORLD_SIZE"]) != processes:
            raise ConfigError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, --num-gpus and "
                f"--num-machines ask for {processes}: leave these two out"
            )
        return
    place = ["--standalone"]
    if args.num_machines > 1:
        url = urlsplit(args.dist_url or "")
        if url.scheme != "tcp" or not url.hostname or not url.port:
            raise ConfigError(
                f"--dist-url {args.dist_url}: several machines meet at machine 0's tcp://HOST:PORT"
            )
        place = [f"--nnodes={args.num_machines}", f"--node-rank={args.machine_rank}"]
        place += [f"--master-addr={url.hostname}", f"--master-port={url.port}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *place]
    torchrun += [f"--nproc-per-node={args.num_gpus}", "-m", module, *arguments]
    os.execv(sys.executable, torchrun)
