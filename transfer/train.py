"""Fine-tuning on Detectron2's engine: its hooks, writers and checkpoints, and an orderly way out.

After the last iteration the BN statistics are recomputed (PreciseBN), then the model is evaluated.
Whatever takes long can be interrupted: there is always a checkpoint from just before it. Every
random draw follows from the seed and the iteration or the place in the training stream, so that a
resumed run does what an uninterrupted one would have done.
"""

import logging
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import (
    AMPTrainer,
    DefaultTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from pretrain.runtime import files
from pretrain.runtime.config import ConfigError, flatten
from pretrain.runtime.distributed import autocast_dtype
from pretrain.runtime.interrupt import Interrupted, InterruptFlag
from transfer.config import AMP_DTYPES
from transfer.data.stream import PRECISE_BN, STEP, Stream, evaluation_loader, seed_rng
from transfer.evaluation import build_evaluator

logger = logging.getLogger(__name__)

FINAL = "model_final"  # the checkpoint with recomputed BN statistics
RECIPE_BN_BATCH = 16
WINDOW = 20  # iterations between two lines of the log


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpoints, written atomically; the one before goes when the next is whole."""

    def save(self, name: str, **kwargs: Any) -> None:
        if not self.save_to_disk:
            return
        states = {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        files.write_torch(path, {"model": self.model.state_dict(), **states, **kwargs})
        files.write_text(path.with_name("last_checkpoint"), path.name)
        for other in path.parent.glob("model_*.pth"):
            if other != path:
                other.unlink()

    def _torch_load(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)


class SaveOrLeave(HookBase):
    """Save every so often, before anything long, and before leaving in answer to a signal."""

    def after_step(self) -> None:
        trainer, solver = self.trainer, self.trainer.cfg.SOLVER
        done, test_period = trainer.iter + 1, trainer.cfg.TEST.EVAL_PERIOD
        leaving = any(comm.all_gather(bool(trainer.interrupted)))
        if (
            leaving
            or done == trainer.max_iter
            or done % solver.CHECKPOINT_PERIOD == 0
            or (test_period > 0 and done % test_period == 0)
        ):
            trainer.checkpointer.save(f"model_{done:07d}")
            comm.synchronize()  # nobody leaves before rank 0 has written
        if leaving:
            raise Interrupted(
                f"saved after iteration {done} of {trainer.max_iter}", trainer.interrupted.received
            )


class PreciseBN(hooks.PreciseBN):
    """Detectron2's, on the same batches and random numbers whenever it runs."""

    def update_stats(self) -> None:
        self._data_iter = None
        seed_rng(self.trainer.cfg.SEED, PRECISE_BN, comm.get_rank())
        super().update_stats()


class DataWait(EventWriter):
    """A line on where the time went since the last one."""

    def write(self) -> None:
        storage = get_event_storage()
        if "time" not in storage.histories():
            return  # the timer leaves out the first iterations
        window = storage.count_samples("time", WINDOW)
        seconds = storage.history("time").avg(window)
        share = storage.history("data_time").avg(window) / seconds
        logger.info("%.3f s per iteration, %.0f %% of it waiting for data", seconds, 100 * share)


class Trainer(DefaultTrainer):
    """Detectron2's trainer; ``train`` returns the results of the evaluation."""

    def __init__(self, cfg: CfgNode, interrupted: InterruptFlag) -> None:
        # DefaultTrainer's own gives DDP a device id, which a model on the CPU must not have.
        TrainerBase.__init__(self)
        self.cfg, self.interrupted = cfg, interrupted
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.stream = Stream(cfg)
        loader = self.stream.loader(cfg.DATALOADER.NUM_WORKERS)
        device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE == "cuda" else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=device_ids)
        self._trainer = _build_step(cfg, model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self._in_step = self._is_final = False
        self._spent, self._started = 0.0, time.monotonic()  # seconds, over all resumed parts
        model.register_forward_pre_hook(self._leave_between_steps)
        self._precise_bn: hooks.PreciseBN | None = None
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's model; on a CPU with its forward in ``TRANSFER.AMP_DTYPE``, if asked for."""
        model = build_model(cfg)
        if cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cpu":
            # Around forward rather than around the step: PreciseBN and evaluation need it, too.
            dtype = autocast_dtype(AMP_DTYPES[cfg.TRANSFER.AMP_DTYPE], "cpu", logger)
            if dtype is not None:
                model.forward = torch.autocast("cpu", dtype)(model.forward)
        return model

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable:
        """Detectron2's, or DensePose's."""
        return evaluation_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """Ours, by the data set's ``evaluator_type``."""
        return build_evaluator(cfg, dataset_name)

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's own, in its order, but saving before PreciseBN and not after it."""
        cfg = self.cfg
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            self._precise_bn = PreciseBN(
                cfg.TEST.EVAL_PERIOD,
                self.model,
                self.stream.loader(num_workers=0),  # a second one, beside the training's
                cfg.TEST.PRECISE_BN.NUM_ITER,
            )
        chosen = [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            SaveOrLeave(),
            self._precise_bn,
            hooks.EvalHook(
                cfg.TEST.EVAL_PERIOD,
                lambda: self.test(self.cfg, self.model),
                eval_after_train=False,
            ),
        ]
        if comm.is_main_process():
            chosen.append(hooks.PeriodicWriter(self.build_writers(), WINDOW))
        return [hook for hook in chosen if hook is not None]

    def build_writers(self) -> list[EventWriter]:
        """Lines to read, lines to parse (not under the name of our metrics.json), TensorBoard."""
        return [
            CommonMetricPrinter(self.max_iter),
            DataWait(),
            JSONWriter(str(Path(self.cfg.OUTPUT_DIR, "training.jsonl"))),
            TensorboardXWriter(self.cfg.OUTPUT_DIR),
        ]

    def resume(self) -> bool:
        """Go on from the last checkpoint in the output folder; False if there is none."""
        if not self.checkpointer.has_checkpoint():
            return False
        path = self.checkpointer.get_checkpoint_file()
        self.checkpointer.load(path)
        self.start_iter, self._is_final = self.iter + 1, Path(path).stem == FINAL
        self._trainer.data_loader.batch_sampler.start = self.start_iter
        return True

    def train(self) -> dict[str, dict[str, float]]:
        """Train from ``start_iter``, recompute BN statistics, save, evaluate.

        Returns the evaluator's nested results, empty on ranks other than 0. Raises Interrupted
        after a signal, with a checkpoint to resume from, and FloatingPointError for a NaN loss.
        """
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter = self.max_iter  # tells hooks and writers that training is over
                if not self._is_final:
                    self._finish()
                return self.test(self.cfg, self.model)
            finally:
                self.after_train()

    def run_step(self) -> None:
        """One iteration, whole: a signal that comes within it waits for SaveOrLeave."""
        self._in_step = True
        seed_rng(self.cfg.SEED, STEP, comm.get_rank(), self.iter)  # boxes are sampled at random
        super().run_step()
        self._in_step = False

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, with the seconds spent and the number of processes."""
        return super().state_dict() | {
            "seconds": self.seconds,
            "processes": comm.get_world_size(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Detectron2's; says so where the number of processes is another one now."""
        super().load_state_dict(state_dict)
        before, now = state_dict["processes"], comm.get_world_size()
        if before != now:
            logger.warning(
                "begun on %d processes, resumed on %d: from here on the images come in another "
                "order than in an uninterrupted run",
                before,
                now,
            )
        self._spent, self._started = state_dict["seconds"], time.monotonic()

    @property
    def seconds(self) -> float:
        """Time spent on this run so far, all its resumed parts together."""
        return self._spent + time.monotonic() - self._started

    def _finish(self) -> None:
        """PreciseBN, where the hook has not just done it, and the final checkpoint."""
        if self._precise_bn is not None and self.start_iter == self.max_iter:
            self._precise_bn.update_stats()
        if comm.get_world_size() > 1:
            # Without SyncBN every rank has statistics of its own: all evaluate what is saved.
            for buffer in self.model.buffers():
                dist.broadcast(buffer, src=0)
        self.checkpointer.save(FINAL)

    def _leave_between_steps(self, *_: Any) -> None:
        """In PreciseBN and in evaluation nothing new is to be saved: leave at the next batch."""
        if self.interrupted and not self._in_step:
            raise Interrupted(
                "nothing was lost since the last checkpoint", self.interrupted.received
            )


def _build_step(
    cfg: CfgNode, model: nn.Module, loader: Iterable, optimizer: torch.optim.Optimizer
) -> SimpleTrainer:
    """Detectron2's plain step, or on GPUs its AMP step, which scales the loss for fp16 only."""
    if not (cfg.SOLVER.AMP.ENABLED and cfg.MODEL.DEVICE == "cuda"):
        return SimpleTrainer(model, loader, optimizer)
    dtype = AMP_DTYPES[cfg.TRANSFER.AMP_DTYPE]
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    return AMPTrainer(model, loader, optimizer, grad_scaler=scaler, precision=dtype)


def images_per_bn_batch(cfg: CfgNode, processes: int) -> int:
    """How many images share a BN's statistics; 0 where the backbone's norm uses no batch.

    The one place that decides about SyncBN: ConfigError where it cannot run.
    """
    norms = {key: value for key, value in flatten(cfg.MODEL).items() if key.endswith(".NORM")}
    synchronized = [key for key, value in norms.items() if value in ("SyncBN", "nnSyncBN")]
    if synchronized and processes > 1 and cfg.MODEL.DEVICE == "cpu":
        pairs = " ".join(f"MODEL.{key} BN" for key in synchronized)
        raise ConfigError(f"SyncBN runs on one CPU process, not on {processes}. Add: {pairs}")
    norm = cfg.MODEL.RESNETS.NORM
    if "BN" not in norm or norm == "FrozenBN":
        return 0
    images = cfg.SOLVER.IMS_PER_BATCH // (1 if "SyncBN" in norm else processes)
    if images < RECIPE_BN_BATCH:
        logger.info(
            "%s sees %d images per batch; the recipes have %d, expect other numbers",
            norm,
            images,
            RECIPE_BN_BATCH,
        )
    return images
