"""What a step's micro-batches and ranks say together, read by the host one step later."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from pretrain.runtime import distributed


class Step(NamedTuple):
    """One optimizer step, the same on all ranks but for ``images``."""

    values: dict[str, float]  # means over micro-steps and ranks
    skipped: bool  # a loss or gradient was not finite, and the update left out
    interrupted: bool  # some rank got a signal
    bad_images: int  # how many the ranks have met
    images: list[int]  # this rank's, of micro-steps with a loss that is not finite, else all


class Statistics:
    """Collects micro-steps, reduces them over the ranks once a step.

    The one all-reduced tensor also says whether the update must be left out and whether a rank was
    interrupted, so that no step waits for the host and all ranks agree.
    """

    def __init__(self) -> None:
        self._outputs: list[torch.Tensor] = []
        self._names: list[str] = []
        self._images: list[Sequence[int]] = []
        self._untold: tuple | None = None
        self.previous: Step | None = None  # read when the last one was closed, if it was untold

    def add(self, outputs: dict[str, torch.Tensor], images: Sequence[int]) -> None:
        """Take in the model's outputs of one micro-step, and its images."""
        self._names = list(outputs)
        self._outputs.append(torch.stack([v.detach().float() for v in outputs.values()]))
        self._images.append(images)

    def close_step(
        self,
        host: dict[str, float],
        gradients: Sequence[torch.Tensor],
        interrupted: bool,
        bad_images: float,
    ) -> torch.Tensor:
        """Reduce a step, keep the ``host``'s values beside it, read the one before: ``previous``.

        ``bad_images``: this rank's share of their number.
        Returns whether the update must be left out: () bool on the device, the same on all ranks.
        """
        self.previous = self.untold()
        outputs = torch.stack(self._outputs)  # (micro-steps, names)
        losses = outputs[:, self._names.index("loss")]
        norms = torch.stack(torch._foreach_norm(gradients))
        finite = norms.isfinite().all() & losses.isfinite().all()
        told = [losses.new_full((), float(number)) for number in (interrupted, bad_images)]
        values = torch.cat(
            [outputs.mean(dim=0), torch.stack([finite.logical_not().float(), *told])]
        )
        values = distributed.all_reduce_mean(values)
        skipped = values[len(self._names)] > 0
        values = torch.cat([values, losses])
        copied = None
        if values.is_cuda:
            # To pinned memory, and read one step later: the host waits for the copy, not the step
            values, device = torch.empty_like(values, device="cpu", pin_memory=True), values
            values.copy_(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._untold = host, values, copied, self._images
        self._outputs, self._images = [], []
        return skipped

    def untold(self) -> Step | None:
        """The step closed last, once it is done; None when it has been told before."""
        if self._untold is None:
            return None
        host, values, copied, images = self._untold
        self._untold = None
        if copied is not None:
            copied.synchronize()
        numbers = values.tolist()
        means, rest = numbers[: len(self._names)], numbers[len(self._names) :]
        skipped, interrupted, bad_images, *losses = rest
        broken = [
            each for each, loss in zip(images, losses, strict=True) if not math.isfinite(loss)
        ]
        return Step(
            host | dict(zip(self._names, means, strict=True)),
            skipped > 0,
            interrupted > 0,
            round(bad_images * distributed.world_size()),
            [index for each in broken or images for index in each],
        )
