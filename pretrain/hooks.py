"""What the loop does beside training: the log, monitors, checkpoints, the clock."""

import logging
import time
from collections.abc import Iterator

import numpy as np
import torch

from pretrain.data import Batch, DataError
from pretrain.faults import SkippedSteps
from pretrain.run import Run
from pretrain.runtime import distributed
from pretrain.runtime.logging import MetricWriter, progress_bar
from pretrain.statistics import Statistics, Step


class Clock:
    """Images per second, and the share of the time spent waiting for data."""

    def __init__(self) -> None:
        self.waited, self.micro_steps, self.since = 0.0, 0, time.perf_counter()

    def watch(self, loader: torch.utils.data.DataLoader) -> Iterator[Batch]:
        """The loader's batches, timed."""
        batches = iter(loader)
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


class Log:
    """Every LOG.PERIOD steps a line, metrics.jsonl and TensorBoard; a bar on a terminal. Rank 0."""

    def __init__(self, run: Run, clock: Clock, logger: logging.Logger) -> None:
        self.clock, self.logger, self.window = clock, logger, []
        self.speaks = distributed.rank() == 0
        self.writer = MetricWriter(run.folder, last_step=run.step) if self.speaks else None
        self.bar = progress_bar(run.plan.total_steps, run.step) if self.speaks else None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        if self.speaks:
            self.writer.close()
            self.bar.close()

    def __call__(self, run: Run, step: Step | None) -> None:
        """Take in one step: the one before ``run.step``, or the last. Skipped ones are counted."""
        if not self.speaks or step is None:
            return
        self.window.append(step)
        number, total = step.values["step"], run.plan.total_steps
        self.bar.update(number - self.bar.n)
        if number % run.cfg.LOG.PERIOD and number != total:
            return
        taken = [s.values for s in self.window if not s.skipped] or [step.values]
        values = {name: float(np.mean([each[name] for each in taken])) for name in step.values}
        for name in ("epoch", "lr", "teacher_momentum"):
            values[name] = step.values[name]
        values["skipped_steps"] = sum(s.skipped for s in self.window)
        values["loss_minus_margin"] = values["loss"] - run.cfg.LOSS.MARGIN
        if run.scaler.is_enabled():
            values["gradient_scale"] = run.scaler.get_scale()
        values |= self.clock.read(run.plan.images_per_micro_step)
        del values["step"]
        self.writer.write(number, values)
        numbers = " ".join(f"{name} {value:.6g}" for name, value in values.items())
        self.logger.info(f"step {number}/{total} {numbers}")
        self.window.clear()


class Checkpointer:
    """A checkpoint every CHECKPOINT.PERIOD_EPOCHS epochs and at the end."""

    def __init__(
        self,
        statistics: Statistics,
        log: Log,
        skipped_steps: SkippedSteps,
        logger: logging.Logger,
    ) -> None:
        self.statistics, self.log, self.skipped_steps = statistics, log, skipped_steps
        self.logger = logger

    def __call__(self, run: Run, _: Step | None) -> None:
        period = run.cfg.CHECKPOINT.PERIOD_EPOCHS * run.plan.length
        if run.micro_step % period == 0 or run.micro_step == run.plan.total:
            self.save(run)

    def save(self, run: Run) -> None:
        """Save, unless the update was left out just now: the weights may be what is wrong.

        What was computed up to here is told before. Only a run's last step may be skipped, alone;
        else FloatingPointError.
        """
        step = self.statistics.untold()
        self.log(run, step)
        self.skipped_steps(run, step)
        last, skipped = run.micro_step == run.plan.total, self.skipped_steps.in_a_row
        if last and skipped > 1:
            raise FloatingPointError(
                f"step {run.step}: the last {skipped} steps were skipped for NaN or infinity, so "
                f"the run ends without its last checkpoint; see {self.skipped_steps.path}"
            )
        if skipped and not last:
            self.logger.warning(f"step {run.step} was skipped: no checkpoint of it")
            return
        run.save()
