"""torch.compile of student and teacher, where it works."""

import logging

import torch
from torch import nn

from pretrain.runtime import distributed


def compile_networks(model: nn.Module, autocast: torch.autocast, device: torch.device) -> None:
    """Compile ``model.student`` and ``model.teacher`` on all ranks, or say why they stay as is.

    A small network is tried first, forward and backward, since what cannot be compiled would
    otherwise end the run in its first step. Every resolution is compiled for itself.
    """
    try:
        _try(autocast, device)
        reason = None
    except Exception as error:  # no compiler, no Triton, an unsupported Python or GPU: anything
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[-1] if lines else 'no reason given'}"
    failed = distributed.all_reduce_mean(torch.tensor(float(reason is not None), device=device))
    if failed.item():
        logging.getLogger("pretrain").warning(
            "SOLVER.COMPILE: torch.compile does not work here, so nothing is compiled "
            f"({reason or 'on another rank'})"
        )
        return
    model.student.compile(dynamic=False)
    model.teacher.compile(dynamic=False)


def _try(autocast: torch.autocast, device: torch.device) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()).to(device)
    with autocast:
        output = torch.compile(network, dynamic=False)(torch.ones(2, 3, 8, 8, device=device))
    output.float().sum().backward()
