"""Optimizers and schedules: LARS or SGD, cosine or steps, as SOLVER describes them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn


def build_optimizer(model: nn.Module, solver: CfgNode) -> torch.optim.Optimizer:
    """LARS (lars_param_groups), or SGD, which decays every parameter; the learning rate is 0.

    Frozen parameters are in no group.
    """
    if solver.OPTIMIZER == "sgd":
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trainable, 0.0, solver.MOMENTUM, weight_decay=solver.WEIGHT_DECAY)
    groups = lars_param_groups(model, solver.WEIGHT_DECAY)
    return LARS(groups, 0.0, solver.MOMENTUM, solver.TRUST_COEFFICIENT, solver.LARS_EPS)


def lars_param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: tensors of 2 or more dimensions adapt and decay, the others do neither.

    BN's gamma and beta and all biases are in the second; frozen parameters are in none.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = [parameter for parameter in trainable if parameter.ndim > 1]
    others = [parameter for parameter in trainable if parameter.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": others, "weight_decay": 0.0, "adapt": False},
    ]


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step length follows each tensor's own norm (arXiv 1708.03888).

    g ← g + wd·p;  g ← g·trust·‖p‖/(‖g‖+eps) where both norms are positive;  buf ← momentum·buf + g;
    p ← p − lr·buf. Groups with ``adapt`` False skip the second line.
    """

    def __init__(
        self,
        param_groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "adapt": True}
        super().__init__(
            param_groups, defaults | {"trust_coefficient": trust_coefficient, "eps": eps}
        )

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient; it uses the gradients up."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            gradients = [p.grad for p in parameters]
            if group["weight_decay"]:
                torch._foreach_add_(gradients, parameters, alpha=group["weight_decay"])
            if group["adapt"]:
                norms = torch.stack(torch._foreach_norm(parameters))
                gradient_norms = torch.stack(torch._foreach_norm(gradients))
                ratios = group["trust_coefficient"] * norms / (gradient_norms + group["eps"])
                ratios = ratios.where((norms > 0) & (gradient_norms > 0), 1.0)
                torch._foreach_mul_(gradients, list(ratios.unbind()))
            for parameter in parameters:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            buffers = [self.state[p]["momentum_buffer"] for p in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            torch._foreach_add_(parameters, buffers, alpha=-group["lr"])


def lr_schedule(solver: CfgNode, length: int, total_batch_size: int) -> np.ndarray:
    """The learning rate of every micro-step, float64 (EPOCHS·length,).

    length: micro-steps of an epoch. total_batch_size: images of an optimizer step.
    """
    counted = length if solver.SCHEDULE_BY == "step" else 1  # in an epoch
    total, peak = solver.EPOCHS * counted, solver.BASE_LR * total_batch_size / 256
    if solver.MILESTONES:
        values = step_decay(peak, total, [epoch * counted for epoch in solver.MILESTONES])
    else:
        values = warmup_cosine(
            peak,
            solver.END_LR_SHARE * peak,
            total,
            solver.WARMUP_EPOCHS * counted,
            solver.WARMUP_LR_SHARE * peak,
            endpoint=solver.WARMUP_ENDPOINT,
        )
    return values.repeat(length // counted)


def teacher_momentum_schedule(solver: CfgNode, length: int) -> np.ndarray:
    """The teacher's momentum at every micro-step, float64 (EPOCHS·length,)."""
    total = solver.EPOCHS * length
    return warmup_cosine(solver.TEACHER_MOMENTUM, solver.TEACHER_MOMENTUM_END, total)


def warmup_cosine(
    peak: float,
    end: float,
    total: int,
    warmup: int = 0,
    start: float = 0.0,
    *,
    endpoint: bool = True,
) -> np.ndarray:
    """Schedule values, float64 (total,): a linear warm-up from start, then a cosine to end.

    endpoint: whether the warm-up's last value is the peak, which then comes twice, at warmup − 1
    and at warmup; else the warm-up stops one step short of it. ``end`` is approached, never
    reached. Raises ValueError unless 0 <= warmup <= total.
    """
    if not 0 <= warmup <= total:
        raise ValueError(f"a warm-up of {warmup} micro-steps does not fit into {total}")
    ramp = np.linspace(start, peak, warmup, endpoint=endpoint)
    phase = np.arange(total - warmup) / max(total - warmup, 1)
    return np.concatenate([ramp, end + 0.5 * (peak - end) * (1 + np.cos(math.pi * phase))])


def step_decay(
    peak: float, total: int, milestones: Sequence[int], factor: float = 0.1
) -> np.ndarray:
    """Schedule values, float64 (total,): ``peak``, times ``factor`` from each milestone on."""
    return peak * factor ** np.searchsorted(milestones, np.arange(total), side="right")
