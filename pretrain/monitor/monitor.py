"""What a run has learnt, measured while it trains."""

import time

import torch

from pretrain.data import MultiCropImages
from pretrain.data.device import to_device
from pretrain.monitor import measures, pictures, probes
from pretrain.monitor.log import Log
from pretrain.run import Run
from pretrain.runtime.config import REPOSITORY


class Monitor:
    """Every MONITOR.PERIOD steps what the network has learnt; at step 0 it is untrained.

    On one batch of global views of MONITOR.IMAGES images, drawn apart from those of training. All
    ranks measure, since SyncBN needs them all; rank 0 tells, and shows the first SHOWN images.
    """

    SHOWN = 2

    def __init__(self, run: Run, log: Log, data: MultiCropImages) -> None:
        cfg = run.cfg
        self.log, self.clock = log, log.clock
        start = time.perf_counter()
        views = data.apart(data.spread(cfg.MONITOR.IMAGES))
        self.crops, _, boxes = to_device(views, run.device)
        self.boxes = boxes[:2]
        root = cfg.MONITOR.LABELS
        self.labels = probes.Labels(REPOSITORY / root, cfg.CROPS.GLOBAL_SIZE) if root else None
        if run.step == 0:
            self.measure(run)
            self.show(run)
        self.clock.skip(time.perf_counter() - start)

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
        self.clock.skip(time.perf_counter() - start)

    @torch.compiler.set_stance("force_eager")  # nothing is compiled for a few images
    def measure(self, run: Run) -> None:
        """The monitors now, in the log and in metrics.jsonl."""
        with run.autocast():
            values = measures.measure(run.model, self.crops, self.boxes)
            if self.labels:
                values |= probes.measure(run.model, self.labels, run.device)
        if self.log.speaks:
            self.log.writer.write(run.step, {f"monitor/{k}": v for k, v in values.items()})
            self.log.logger.info(
                f"monitor at step {run.step}: match rate {values['match_rate']:.3f} (chance "
                f"{values['match_chance']:.3f}), spread {values['embedding_spread']:.2f}, "
                f"effective rank {values['effective_rank']:.1f}"
            )
            if run.step and (wrong := measures.warning(values)):
                self.log.logger.warning(f"warning: {wrong}")

    @torch.compiler.set_stance("force_eager")
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
