"""LARS and the warm-up cosine schedule (clove.md section 9)."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn


def lars_param_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: tensors of 2 or more dimensions adapt and decay, the others do neither.

    BN's gamma and beta and all biases are in the second; frozen parameters are in none.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {
            "params": [parameter for parameter in trainable if parameter.ndim > 1],
            "weight_decay": weight_decay,
            "adapt": True,
        },
        {
            "params": [parameter for parameter in trainable if parameter.ndim <= 1],
            "weight_decay": 0.0,
            "adapt": False,
        },
    ]


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose step length follows each tensor's own norm.

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
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "weight_decay": 0.0,
            "adapt": True,
        }
        super().__init__(param_groups, defaults)

    @torch.no_grad()
    def step(self, skip: torch.Tensor | None = None) -> None:
        """One update of every parameter that has a gradient; gradients are used up, to save memory.

        Parameters and momentum stay as they are where ``skip`` (() bool): decided on the device, so
        that the host need not wait to know.
        """
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
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
            buffers = [self.state[p]["momentum_buffer"] for p in parameters]
            if skip is None:
                torch._foreach_mul_(buffers, group["momentum"])
                torch._foreach_add_(buffers, gradients)
                torch._foreach_add_(parameters, buffers, alpha=-group["lr"])
            else:
                torch._foreach_mul_(buffers, torch.where(skip, 1.0, group["momentum"]))
                torch._foreach_add_(buffers, [g.where(~skip, 0) for g in gradients])
                step = torch.where(skip, 0.0, -group["lr"])
                torch._foreach_add_(parameters, torch._foreach_mul(buffers, step))


def warmup_cosine(
    peak: float, end: float, total: int, warmup: int = 0, start: float = 0.0
) -> np.ndarray:
    """Schedule values, float64 (total,): a linear warm-up from start, then a cosine to end.

    Counts are micro-steps. Both ends of the warm-up are included, so the peak is hit at
    warmup − 1 and at warmup; ``end`` is approached, never reached. Raises ValueError unless
    0 <= warmup <= total.
    """
    if not 0 <= warmup <= total:
        raise ValueError(f"a warm-up of {warmup} micro-steps does not fit into {total}")
    ramp = np.linspace(start, peak, warmup)
    phase = np.arange(total - warmup) / max(total - warmup, 1)
    return np.concatenate([ramp, end + 0.5 * (peak - end) * (1 + np.cos(math.pi * phase))])
