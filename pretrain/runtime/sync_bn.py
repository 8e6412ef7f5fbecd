"""Batch normalization over the batch of all ranks: one all-reduce forward, one backward.

``nn.SyncBatchNorm`` gathers the statistics of every rank and drops those of ranks without values,
for which the host waits at every layer, and compilers break the graph. Sums need neither.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """As ``nn.SyncBatchNorm``, on any device, with the same names of parameters and buffers.

    Inputs (N,C,...) of any floating type; N and what follows C may differ between the ranks, and
    be 0. Sums are in float32 at least, of the distance from the running mean, so that a mean far
    above the deviation does not cancel. All ranks must call it in training.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected an input (N,C,...), found {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(N,C,...) → the same shape and type."""
        if not self.training or not (dist.is_available() and dist.is_initialized()):
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, variance, count = _Synchronized.apply(
            input, self.weight, self.bias, self.running_mean, self.eps
        )
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = self.momentum
                if share is None:  # the mean over all batches
                    share = 1 / self.num_batches_tracked.to(mean.dtype)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
        return output


def synchronize(model: nn.Module) -> nn.Module:
    """``model`` with SyncBatchNorm in the place of every BN; parameters and buffers are kept."""
    for name, child in model.named_children():
        setattr(model, name, synchronize(child))
    if not isinstance(model, _BatchNorm) or isinstance(model, SyncBatchNorm):
        return model
    synchronized = SyncBatchNorm(
        model.num_features, model.eps, model.momentum, model.affine, model.track_running_stats
    )
    synchronized.train(model.training)
    synchronized._parameters, synchronized._buffers = model._parameters, model._buffers
    return synchronized


class _Synchronized(torch.autograd.Function):
    """(N,C,...) → normalized values, and mean, biased variance and count over all ranks."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor | None, bias: Tensor | None, shift: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kind = torch.promote_types(x.dtype, torch.float32)
        shift = x.new_zeros(x.shape[1], dtype=kind) if shift is None else shift.to(kind)
        wide = x.to(kind) - _over_channels(shift, x)
        sums = torch.cat([_sum(wide), _sum(wide.square()), wide.new_full((1,), _count(x))])
        dist.all_reduce(sums)
        first, second = sums[:-1].view(2, -1) / sums[-1]
        variance = (second - first.square()).clamp(min=0)
        deviation = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, shift + first, deviation, sums[-1])
        output = (wide - _over_channels(first, x)) * _over_channels(deviation, x)
        if weight is not None:
            output = output * _over_channels(weight, x) + _over_channels(bias, x)
        ctx.mark_non_differentiable(mean := shift + first, variance, count := sums[-1].clone())
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, deviation, count = ctx.saved_tensors
        unit = (x.to(mean.dtype) - _over_channels(mean, x)) * _over_channels(deviation, x)
        gradient = gradient.to(mean.dtype)
        own = torch.cat([_sum(gradient), _sum(gradient * unit)])
        of_bias, of_weight = own.view(2, -1) if weight is not None else (None, None)
        sums = own.clone()
        dist.all_reduce(sums)
        first, second = (_over_channels(each, x) for each in sums.view(2, -1) / count)
        scale = deviation if weight is None else deviation * weight
        of_x = (gradient - first - unit * second) * _over_channels(scale, x)
        return of_x.to(x.dtype), of_weight, of_bias, None, None


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    """(C,) as it stands beside (N,C,...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def _sum(x: Tensor) -> Tensor:
    """(N,C,...) → (C,)."""
    return x.sum(dim=[0, *range(2, x.ndim)])


def _count(x: Tensor) -> int:
    return x.numel() // x.shape[1]
