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
from torch import nn

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


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """``model``, whose BN normalizes with the batch of all ranks from now on.

    In one process that is what it does already. On CPUs there is no such BN: a warning says so.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    logging.getLogger(__name__).warning(
        "SyncBN needs GPUs: on several CPU processes each one normalizes with its own batch"
    )
    return model


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
