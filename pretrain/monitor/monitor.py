"""What a run has learnt, measured while it trains."""

import copy
import json
import time
from pathlib import Path

import torch

from pretrain.data import MultiCropImages
from pretrain.data.device import to_device
from pretrain.data.multicrop import read
from pretrain.monitor import measures, pictures, probes
from pretrain.monitor.log import Log
from pretrain.run import Run
from pretrain.runtime.config import REPOSITORY


class Monitor:
    """Every MONITOR.PERIOD steps what the network has learnt, beside what it knew untrained.

    On one batch of global views of MONITOR.IMAGES images, drawn apart from those of training. All
    ranks measure, since SyncBN needs them all; rank 0 tells, and shows the first SHOWN images.
    """

    SHOWN = 2

    def __init__(self, run: Run, log: Log, data: MultiCropImages) -> None:
        cfg = run.cfg
        self.log, self.clock = log, log.clock
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
        self._no_training_since(self.began)

    def __call__(self, run: Run) -> None:
        last = run.micro_step == run.plan.total
        if run.step % run.cfg.MONITOR.PERIOD and not last:
            return
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)  # the step before is not ours to time
        start = time.perf_counter()
        self.measure(run)
        if run.step % run.cfg.MONITOR.PICTURE_PERIOD == 0 or last:
            self.show(run)
        self._no_training_since(start)

    def _no_training_since(self, start: float) -> None:
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.clock.skip(seconds)

    def measure(self, run: Run) -> dict[str, float]:
        """The monitors now, in the log and in metrics.jsonl.

        ``time_share``: of the time since the loop began, what all before this one have taken.
        """
        with run.autocast():
            values = measures.measure(run.model, self.crops, self.boxes)
            if self.labels:
                values |= probes.measure(run.model, self.labels, run.device)
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
            if run.step and (wrong := measures.warning(values)):
                self.log.logger.warning(f"warning: {wrong}")
        return values

    def show(self, run: Run) -> None:
        """Matches, attention and PCA to TensorBoard, where step 0 is the untrained network."""
        some = self.crops[:, : measures.STATISTICS_VIEWS // 2].flatten(0, 1)
        with run.autocast():
            models = {f"step {run.step}": measures.settled(run.model, some)}
            for n in range(self.SHOWN if self.log.speaks else 0):
                crops, boxes = self.crops[:, n], self.boxes[:, n]
                drawn = pictures.figures(models, crops, boxes, crops[0])
                for kind, figure in drawn.items():
                    self.log.writer.write_figure(run.step, f"monitor/{kind}/{n}", figure)

    def show_views(self, data: MultiCropImages, images: list[int]) -> None:
        """All views of some images and where they were cut, once; unreadable images have none."""
        data = copy.copy(data)
        data.crops = copy.copy(data.crops)
        data.crops.photometry = True  # as the network sees them, also where a GPU changes colours
        for n, index in enumerate(images if self.log.speaks else ()):
            views, tried = data["apart", index]
            if len(tried) == 1:
                figure = pictures.draw_views(read(data.images, index), views)
                self.log.writer.write_figure(0, f"monitor/views/{n}", figure)


def _match_rate_of(path: Path) -> float | None:
    """What a run measured at step 0, last."""
    first = [line for line in map(json.loads, path.open()) if line["step"] == 0]
    return ([None] + [line.get("monitor/match_rate") for line in first])[-1]
