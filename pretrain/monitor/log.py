"""What a run tells of its steps, and what its ranks must know of each other."""

import itertools
import logging
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pretrain.data import Batch, DataError
from pretrain.data.bad_images import write_names
from pretrain.run import Run
from pretrain.runtime import distributed
from pretrain.runtime.logging import MetricWriter, progress_bar


class Clock:
    """Images per second, and the share of the time spent waiting for data."""

    def __init__(self) -> None:
        self.waited, self.micro_steps, self.since = 0.0, 0, time.perf_counter()

    def watch(self, loader: torch.utils.data.DataLoader) -> Iterator[Batch]:
        """The loader's batches, timed. Closing it ends the loader's processes."""
        batches = iter(loader)
        try:
            while True:
                before = time.perf_counter()
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except DataError as error:  # with the traceback of the loader's process in its text
                    message = str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]
                    raise DataError(message) from error
                self.waited += time.perf_counter() - before
                self.micro_steps += 1
                yield batch
        finally:
            # A traceback may hold the iterator, and Python would wait for its processes for ever
            # at its end: they ignore SIGTERM
            if isinstance(batches, _MultiProcessingDataLoaderIter):
                batches._shutdown_workers()
            for process in multiprocessing.active_children():
                process.kill()

    def skip(self, seconds: float) -> None:
        """Leave out what was no training."""
        self.since += seconds

    def read(self, images_per_micro_step: int) -> dict[str, float]:
        """Rates since the last call; none when nothing was trained since."""
        if not self.micro_steps:
            return {}
        seconds = time.perf_counter() - self.since
        rates = {
            "images_per_second": self.micro_steps * images_per_micro_step / seconds,
            "data_wait_share": self.waited / seconds,
        }
        self.waited, self.micro_steps, self.since = 0.0, 0, time.perf_counter()
        return rates


class Step(NamedTuple):
    """What the ranks know of each other after an optimizer step."""

    interrupted: bool  # some rank got a signal
    bad_images: int  # how many they have met


class Log:
    """Collects micro-steps, reduces them over the ranks once a step, and tells of them.

    Every LOG.PERIOD steps rank 0 writes a line, metrics.jsonl and TensorBoard. One all-reduced
    tensor a step also says whether all was finite and whether a rank was interrupted, so that all
    ranks agree. The host reads it when the next step is on its way: no step waits for it.
    """

    def __init__(self, run: Run, logger: logging.Logger) -> None:
        self.run, self.logger, self.clock = run, logger, Clock()
        self.speaks = distributed.rank() == 0
        self.writer = MetricWriter(run.folder, last_step=run.step) if self.speaks else None
        self.bar = progress_bar(run.plan.total_steps, run.step) if self.speaks else None
        self._names: list[str] = []  # of the model's outputs
        self._outputs: list[torch.Tensor] = []  # of each micro-step, in the order of the names
        self._images: list[Sequence[int]] = []  # of each micro-step
        self._closed: tuple | None = None  # a step that was not read yet
        self._window: list[dict[str, float]] = []  # steps since the last line

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.speaks:
            self.writer.close()
            self.bar.close()

    def add(self, outputs: dict[str, torch.Tensor], images: Sequence[int]) -> None:
        """Take in the model's outputs of one micro-step, which stay on the device, and its images.

        images: their indices in the data.
        """
        self._names = list(outputs)
        self._outputs.append(torch.stack([v.detach().float() for v in outputs.values()]))
        self._images.append(images)

    def close_step(
        self,
        host: dict[str, float],
        finite: torch.Tensor,
        interrupted: bool,
        bad_images: float,
    ) -> Step | None:
        """End a step, and return the one before it unless that was read.

        host: values that all ranks know. finite: () bool, whether this rank's gradients are.
        bad_images: this rank's share of their number.
        """
        before = self.read()
        outputs = torch.stack(self._outputs)  # (micro-steps, names)
        losses = outputs[:, self._names.index("loss")]
        finite = finite & losses.isfinite().all()
        flags = [losses.new_full((), float(flag)) for flag in (interrupted, bad_images)]
        flags = torch.stack([finite.logical_not().float(), *flags])
        values = distributed.all_reduce_mean(torch.cat([outputs.mean(dim=0), flags]))
        values, copied = torch.cat([values, losses]), None
        if values.is_cuda:
            # To pinned memory: the host waits for this copy only, and not before it reads
            values, device = torch.empty_like(values, device="cpu", pin_memory=True), values
            values.copy_(device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        self._closed = host, values, copied, self._images
        self._outputs, self._images = [], []
        return before

    def read(self) -> Step | None:
        """The step closed last, once it is done; None when it was read before.

        Writes the lines that are due. Raises FloatingPointError, on all ranks, for a loss or
        gradient of NaN or infinity, after its images were listed in not_finite.txt.
        """
        if self._closed is None:
            return None
        host, values, copied, images = self._closed
        self._closed = None
        if copied is not None:
            copied.synchronize()
        count, numbers = len(self._names), values.tolist()
        not_finite, interrupted, bad_images, *losses = numbers[count:]
        step = Step(interrupted > 0, round(bad_images * distributed.world_size()))
        values = host | dict(zip(self._names, numbers[:count], strict=True))
        if not_finite:
            self._stop_unless_overflow(values, losses, images)
        if self.speaks:
            self._tell(values)
        return step

    def _stop_unless_overflow(
        self, values: dict[str, float], losses: list[float], images: list[Sequence[int]]
    ) -> None:
        run, loss = self.run, values["loss"]
        # In fp16 a finite loss with infinite gradients is the scaler's search for its scale
        if run.scaler.is_enabled() and math.isfinite(loss) and run.scaler.get_scale() >= 1:
            return
        broken = [
            some for some, loss in zip(images, losses, strict=True) if not math.isfinite(loss)
        ]
        # Where no loss tells whose images they are, they may be any of the step's
        some, every = zip(*distributed.all_gather((broken, images)), strict=True)
        groups = list(itertools.chain(*some)) or itertools.chain(*every)
        names = sorted({run.images.name(index) for group in groups for index in group})
        path = run.folder / "not_finite.txt"
        if self.speaks:
            write_names(path, names)
        raise FloatingPointError(
            f"step {values['step']}: a loss or gradient is NaN or infinite (loss {loss:.6g}); "
            f"nothing was saved after it. {path} lists its images ({', '.join(names[:3])}, …): "
            "look at them, or lower SOLVER.BASE_LR; --resume goes on from the last checkpoint"
        )

    def _tell(self, step: dict[str, float]) -> None:
        run, number = self.run, step["step"]
        self._window.append(step)
        self.bar.update(number - self.bar.n)
        if number % run.cfg.LOG.PERIOD and number != run.plan.total_steps:
            return
        values = {name: float(np.mean([each[name] for each in self._window])) for name in step}
        for name in ("epoch", "lr", "teacher_momentum"):
            values[name] = step[name]
        if run.scaler.is_enabled():
            values["gradient_scale"] = run.scaler.get_scale()
        values |= self.clock.read(run.plan.images_per_micro_step)
        del values["step"]
        self.writer.write(number, values)
        numbers = " ".join(f"{name} {value:.6g}" for name, value in values.items())
        self.logger.info(f"step {number}/{run.plan.total_steps} {numbers}")
        self._window.clear()
