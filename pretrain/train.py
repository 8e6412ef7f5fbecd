"""The pretraining loop, top to bottom as in clove.md: schedule, batch, forward, backward, step."""

import contextlib
import logging
import math
from collections.abc import Collection
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain import checkpoints
from pretrain.clove import CLoVE
from pretrain.compilation import compile_networks
from pretrain.data import MultiCropFolder, build_data, build_loader
from pretrain.data.device import on_device
from pretrain.encoder import ARCHITECTURES
from pretrain.hooks import BadImages, Checkpointer, Clock, Log, Monitor
from pretrain.run import AUTOCAST, Plan, Run
from pretrain.runtime import distributed
from pretrain.runtime.config import REPOSITORY, ConfigError, flatten
from pretrain.runtime.files import write_json, write_text
from pretrain.runtime.interrupt import Interrupted, InterruptFlag
from pretrain.runtime.logging import setup_logger
from pretrain.runtime.provenance import provenance

AT_LEAST_ONE = (
    "CROPS.GLOBAL_SIZE",
    "CROPS.LOCAL_SIZE",
    "MODEL.HIDDEN",
    "MODEL.DIM",
    "MODEL.HEADS",
    "LOSS.NUM_NEGATIVES",
    "SOLVER.EPOCHS",
    "SOLVER.BATCH_SIZE_PER_GPU",
    "SOLVER.TOTAL_BATCH_SIZE",
    "LOG.PERIOD",
    "CHECKPOINT.PERIOD_EPOCHS",
    "CHECKPOINT.KEEP",
)


class Statistics:
    """Means over a step's micro-batches and all ranks; the host reads them one step later.

    The one all-reduced tensor also carries the ranks' interrupt flags, so that no step waits for
    the host and all ranks agree on when to stop.
    """

    def __init__(self) -> None:
        self._micro_steps: list[torch.Tensor] = []
        self._names: list[str] = []
        self._closed: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._host: dict[str, float] = {}

    def add(self, outputs: dict[str, torch.Tensor]) -> None:
        """Take in the model's outputs of one micro-step."""
        self._names = [*outputs, "interrupted"]
        self._micro_steps.append(torch.stack([v.detach().float() for v in outputs.values()]))

    def close_step(self, host: dict[str, float], interrupted: bool) -> dict[str, float] | None:
        """Reduce a step, keep the ``host``'s values beside it; return the step before it."""
        flag = self._micro_steps[0].new_full((1,), float(interrupted))
        values = torch.cat([torch.stack(self._micro_steps).mean(dim=0), flag])
        values = distributed.all_reduce_mean(values)
        previous = self.latest()
        if values.is_cuda:
            # To pinned memory, and read one step later: the host waits for the copy, not the step
            self._closed = torch.empty_like(values, device="cpu", pin_memory=True)
            self._closed.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._closed = values
        self._micro_steps, self._host = [], host
        return previous

    def latest(self) -> dict[str, float] | None:
        """The step closed last, once it is done. Raises FloatingPointError at NaN."""
        if self._closed is None:
            return None
        if self._copied is not None:
            self._copied.synchronize()
        values = self._host | dict(zip(self._names, self._closed.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"step {values['step']}: the loss is {values['loss']}; lower SOLVER.BASE_LR or "
                "look at the data; nothing of this step was saved"
            )
        return values


def distribute(model: CLoVE, device: torch.device) -> nn.Module:
    """SyncBN everywhere and gradients averaged over the ranks; the model itself in one process."""
    if distributed.world_size() == 1:
        return model
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        logging.getLogger("pretrain").warning(
            "SyncBN needs GPUs: on several CPU processes each one normalizes with its own batch"
        )
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, ids, broadcast_buffers=False)


def train(cfg: CfgNode, resume: bool = False, allowed: Collection[str] = ()) -> Path:
    """Run or go on with a pretraining; returns the last checkpoint's path.

    A run that goes on has its config of before, but for the keys ``allowed`` to have changed.
    Raises Interrupted after saving in answer to a signal; ConfigError, DataError and
    CheckpointError for input that cannot be used.
    """
    check(cfg)
    device = distributed.setup(cfg.DEVICE)
    folder = REPOSITORY / cfg.OUTPUT_DIR
    if checkpoints.list_checkpoints(folder) and not resume:
        raise ConfigError(f"{folder}: holds a run; add --resume or choose another OUTPUT_DIR")
    data = build_data(cfg, device)
    plan = Plan(cfg, len(data), distributed.world_size())
    logger = setup_logger("pretrain", folder, distributed.rank())
    distributed.seed_everything(cfg.SEED)
    torch.backends.cudnn.benchmark = True
    run = Run(cfg, plan, data, device)
    if latest := checkpoints.load_latest(folder, logger):
        run.restore(latest, allowed)
        if run.micro_step == plan.total:
            logger.info(f"{folder}: finished, {run.step} steps; nothing to do")
            return checkpoints.list_checkpoints(folder)[-1]
        logger.info(f"resuming at step {run.step}, epoch {run.epoch:.2f}")
    if distributed.rank() == 0:
        run.require_space()
        write_text(folder / "config.yaml", cfg.dump())
        write_json(folder / "provenance.json", provenance())
    logger.info(
        f"{len(data)} images below {data.root}, {plan.total_steps} steps of "
        f"{plan.total_batch_size} images, peak lr {plan.lr.max():.4g}, on {device}"
    )
    with InterruptFlag() as interrupt:
        loop(run, data, interrupt, logger)
    distributed.barrier()  # rank 0 has written its last checkpoint
    path = checkpoints.list_checkpoints(folder)[-1]
    logger.info(f"done: {run.step} steps; {path}")
    return path


def loop(run: Run, data: MultiCropFolder, interrupt: InterruptFlag, logger: logging.Logger) -> None:
    """Micro-steps from the run's position to its end."""
    plan = run.plan
    if run.cfg.SOLVER.COMPILE:
        compile_networks(run.model, run.autocast(), run.device)
    model = distribute(run.model, run.device).train()
    clock, statistics = Clock(), Statistics()
    loader = build_loader(run.cfg, data, run.micro_step, run.device)
    bad_images = BadImages(run, data, logger)
    checkpointer = Checkpointer(statistics)
    with Log(run, clock, logger) as log:
        hooks = [log, checkpointer]
        if run.cfg.MONITOR.PERIOD:
            hooks.append(Monitor(run, log, clock, data))
        batches = on_device(clock.watch(loader), run.device)
        for micro_step, (views, bad) in enumerate(batches, start=run.micro_step):
            bad_images.report(bad)
            ends_group = plan.ends_group(micro_step)
            momentum = float(plan.teacher_momentum[micro_step]) if ends_group else None
            with accumulate(model, ends_group):
                with run.autocast():
                    outputs = model(*views, momentum)
                run.scaler.scale(outputs["loss"] / plan.accumulation).backward()
            statistics.add(outputs)
            run.micro_step = micro_step + 1
            if not ends_group:
                continue
            lr = float(plan.lr[micro_step])
            for group in run.optimizer.param_groups:
                group["lr"] = lr
            run.scaler.unscale_(run.optimizer)
            run.scaler.step(run.optimizer)  # no step where a gradient is infinite
            run.scaler.update()
            run.optimizer.zero_grad()
            run.step += 1
            position = {"step": run.step, "epoch": run.epoch}
            previous = statistics.close_step(
                {**position, "lr": lr, "teacher_momentum": momentum}, bool(interrupt)
            )
            for hook in hooks:
                hook(run, previous)
            if previous and previous["interrupted"]:
                log(run, statistics.latest())
                checkpointer.save(run)
                distributed.barrier()  # nobody leaves before rank 0 has written
                logger.info(f"interrupted: saved step {run.step}")
                raise Interrupted
        log(run, statistics.latest())


def check(cfg: CfgNode) -> None:
    """Raise ConfigError for values that would fail late or silently."""
    values = flatten(cfg)
    for key in AT_LEAST_ONE:
        if values[key] < 1:
            raise ConfigError(f"{key} {values[key]} is under 1")
    for key in ("CROPS.GLOBAL_AREA", "CROPS.LOCAL_AREA"):
        if len(values[key]) != 2 or not 0 < values[key][0] <= values[key][1] <= 1:
            raise ConfigError(f"{key} {values[key]} is not a range (from, to) within 0 and 1")
    if cfg.MONITOR.IMAGES < 2:
        raise ConfigError(
            f"MONITOR.IMAGES {cfg.MONITOR.IMAGES}: cells of different images are compared, so 2 or "
            "more"
        )
    if cfg.MONITOR.LABELS and not cfg.MONITOR.PERIOD:
        raise ConfigError("MONITOR.LABELS is set but MONITOR.PERIOD 0 measures nothing; set both")
    if cfg.CROPS.NUM_LOCALS < 0:
        raise ConfigError(f"CROPS.NUM_LOCALS {cfg.CROPS.NUM_LOCALS} is negative")
    if cfg.MODEL.ARCH not in ARCHITECTURES:
        raise ConfigError(f"MODEL.ARCH {cfg.MODEL.ARCH!r} is not one of {', '.join(ARCHITECTURES)}")
    if cfg.SOLVER.PRECISION not in AUTOCAST:
        raise ConfigError(
            f"SOLVER.PRECISION {cfg.SOLVER.PRECISION!r} is not one of {', '.join(AUTOCAST)}"
        )
    if cfg.MODEL.DIM % cfg.MODEL.HEADS:
        raise ConfigError(
            f"MODEL.DIM {cfg.MODEL.DIM} is not a multiple of MODEL.HEADS {cfg.MODEL.HEADS}"
        )
    cells = (-(-cfg.CROPS.GLOBAL_SIZE // 32)) ** 2
    negatives = cfg.LOSS.NUM_NEGATIVES + cfg.LOSS.NUM_SKIPPED
    if cells < negatives:
        raise ConfigError(
            f"CROPS.GLOBAL_SIZE {cfg.CROPS.GLOBAL_SIZE} gives {cells} cells, fewer than the "
            f"{negatives} of LOSS.NUM_NEGATIVES + LOSS.NUM_SKIPPED: use 97 px or more for 10, or "
            "fewer negatives"
        )
    if cfg.SOLVER.WARMUP_EPOCHS > cfg.SOLVER.EPOCHS:
        raise ConfigError(
            f"SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS} exceeds SOLVER.EPOCHS "
            f"{cfg.SOLVER.EPOCHS}"
        )


def accumulate(model: nn.Module, ends_group: bool) -> contextlib.AbstractContextManager:
    """No reduction between ranks before the group's last micro-step."""
    ddp = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if ddp and not ends_group else contextlib.nullcontext()
