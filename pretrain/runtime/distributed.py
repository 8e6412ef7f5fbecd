"""One process or many: torchrun and gloo set-up, its flags; what all ranks agree on, seeds."""

import argparse
import contextlib
import os
import random
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pretrain.runtime.config import ConfigError

if TYPE_CHECKING:
    import torch


def setup(device: str = "auto", timeout_minutes: float = 30.0) -> "torch.device":
    """Join the process group that torchrun announces, if any, and return this rank's device.

    device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``. CUDA ranks talk through NCCL,
    CPU ranks through gloo. Raises ConfigError for another device, or cuda without a GPU.
    """
    import torch
    import torch.distributed as dist

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
    import torch.distributed as dist

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
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, 0 without a process group."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes work together, 1 without a process group."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait for every rank."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def all_reduce_mean(values: "torch.Tensor") -> "torch.Tensor":
    """Mean of ``values`` over the ranks, in place."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.all_reduce(values)
        values /= world_size()
    return values


def all_gather(value: Any) -> list[Any]:
    """Every rank's ``value``, of any type that pickles, in their order."""
    import torch.distributed as dist

    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (CPU and GPU) for this process."""
    import numpy as np
    import torch

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
