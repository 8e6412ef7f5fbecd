"""What the loop does beside training: the log, monitors, checkpoints, the clock."""

import copy
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pretrain import monitors, pictures, probes
from pretrain.data import Batch, DataError, MultiCropImages
from pretrain.data.device import to_device
from pretrain.data.multicrop import read
from pretrain.faults import SkippedSteps
from pretrain.run import Run
from pretrain.runtime import distributed
from pretrain.runtime.config import REPOSITORY
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


class Monitor:
    """Every MONITOR.PERIOD steps what the network has learnt, beside what it knew untrained.

    On one batch of global views of MONITOR.IMAGES images, drawn apart from those of training. All
    ranks measure, since SyncBN needs them all; rank 0 tells, and shows the first SHOWN images.
    """

    SHOWN = 2

    def __init__(self, run: Run, log: Log, clock: Clock, data: MultiCropImages) -> None:
        cfg = run.cfg
        self.log, self.clock = log, clock
        self.seconds, self.began = 0.0, time.perf_counter()
        images = data.spread(cfg.MONITOR.IMAGES)
        self.crops, _, boxes = to_device(data.apart(images), run.device)
        self.boxes = boxes[:2]
        root = cfg.MONITOR.LABELS
        self.labels = probes.Labels(REPOSITORY / root, cfg.CROPS.GLOBAL_SIZE) if root else None
        self.untrained = _match_rate_of(run.folder / "metrics.jsonl") if log.speaks else None
        if run.step == 0:
            self.untrained = self.measure(run)["match_rate"]
            self.show(run)
            self.show_views(data, images[: self.SHOWN])
        self.seconds = time.perf_counter() - self.began
        self.clock.skip(self.seconds)

    def __call__(self, run: Run, _: Step | None) -> None:
        last = run.micro_step == run.plan.total
        if run.step % run.cfg.MONITOR.PERIOD and not last:
            return
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)  # the step before is not ours to time
        start = time.perf_counter()
        self.measure(run)
        if run.step % run.cfg.MONITOR.PICTURE_PERIOD == 0 or last:
            self.show(run)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.clock.skip(seconds)

    def measure(self, run: Run) -> dict[str, float]:
        """The monitors now, in the log and in metrics.jsonl.

        ``time_share``: of the time since the loop began, what all before this one have taken.
        """
        with run.autocast():
            values = monitors.measure(
                run.model, self.crops, self.boxes, run.cfg.LOSS.POSITIVE_RADIUS
            )
            if self.labels:
                values |= probes.measure(run.model, self.labels, run.device, self.log.speaks)
        values["time_share"] = self.seconds / (time.perf_counter() - self.began)
        if self.log.speaks:
            self.log.writer.write(run.step, {f"monitor/{k}": v for k, v in values.items()})
            untrained = "" if self.untrained is None else f", untrained {self.untrained:.3f}"
            self.log.logger.info(
                f"monitor at step {run.step}: match rate {values['match_rate']:.3f} (chance "
                f"{values['match_chance']:.3f}{untrained}), spread "
                f"{values['embedding_spread']:.2f}, effective rank {values['effective_rank']:.1f}; "
                f"monitors took {values['time_share']:.1%} of the time"
            )
            if run.step and (wrong := monitors.warning(values)):
                self.log.logger.warning(f"warning: {wrong}")
        return values

    def show(self, run: Run) -> None:
        """Matches, attention and PCA to TensorBoard, where step 0 is the untrained network."""
        some = self.crops[:, : monitors.STATISTICS_VIEWS // 2].flatten(0, 1)
        shown = self.crops[:, : self.SHOWN if self.log.speaks else 0].transpose(0, 1)
        with run.autocast(), monitors.statistics_of(run.model, some):
            maps = [pictures.embed(run.model, crops, crops[0]) for crops in shown]
        for n, (crops, of) in enumerate(zip(shown, maps, strict=True)):
            named, boxes = {f"step {run.step}": of}, self.boxes[:, n]
            drawn = pictures.figures(named, crops, boxes, crops[0], run.cfg.LOSS.POSITIVE_RADIUS)
            for kind, figure in drawn.items():
                image = pictures.to_array(figure)
                self.log.writer.write_image(run.step, f"monitor/{kind}/{n}", image)

    def show_views(self, data: MultiCropImages, images: list[int]) -> None:
        """All views of some images and where they were cut, once; unreadable images have none."""
        data = copy.copy(data)
        data.crops = copy.copy(data.crops)
        data.crops.photometry = True  # as the network sees them, also where a GPU changes colours
        for n, index in enumerate(images if self.log.speaks else ()):
            views, tried = data["apart", index]
            if len(tried) == 1:
                drawn = pictures.to_array(pictures.draw_views(read(data.images, index), views))
                self.log.writer.write_image(0, f"monitor/views/{n}", drawn)


def _match_rate_of(path: Path) -> float | None:
    """What a run measured at step 0, last."""
    found = None
    for line in path.read_text().splitlines():
        values = json.loads(line)
        if values["step"] == 0:
            found = values.get("monitor/match_rate", found)
    return found


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
