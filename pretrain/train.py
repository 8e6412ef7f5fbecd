"""The pretraining loop, top to bottom as in clove.md: schedule, batch, forward, backward, step."""

import contextlib
import logging
import warnings
from collections.abc import Collection
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.compilation import compile_networks
from pretrain.data import MultiCropImages, build_data, build_loader
from pretrain.data.device import on_device
from pretrain.encoder import ARCHITECTURES
from pretrain.faults import BadImages, SkippedSteps
from pretrain.hooks import Checkpointer, Clock, Log
from pretrain.methods.clove import CLoVE
from pretrain.monitor.monitor import Monitor
from pretrain.run import AUTOCAST, Plan, Run
from pretrain.runtime import checkpoints, distributed
from pretrain.runtime.config import REPOSITORY, ConfigError, flatten
from pretrain.runtime.files import write_json, write_text
from pretrain.runtime.interrupt import Interrupted, InterruptFlag
from pretrain.runtime.logging import setup_logger
from pretrain.runtime.provenance import provenance
from pretrain.statistics import Statistics

AT_LEAST_ONE = (
    "CROPS.GLOBAL_SIZE",
    "CROPS.LOCAL_SIZE",
    "MODEL.HIDDEN",
    "MODEL.DIM",
    "LOSS.NUM_NEGATIVES",
    "SOLVER.EPOCHS",
    "SOLVER.BATCH_SIZE_PER_GPU",
    "SOLVER.TOTAL_BATCH_SIZE",
    "SOLVER.MAX_SKIPPED_STEPS",
    "LOG.PERIOD",
    "CHECKPOINT.PERIOD_EPOCHS",
    "CHECKPOINT.KEEP",
    "SLURM.NODES",
    "SLURM.PROCESSES",
)


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
    with warnings.catch_warnings():  # the newest torch has another name for it, others only this
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return nn.parallel.DistributedDataParallel(model, ids, broadcast_buffers=False)


def train(cfg: CfgNode, resume: bool = False, allowed: Collection[str] = ()) -> Path:
    """Run or go on with a pretraining; returns the last checkpoint's path.

    A run that goes on has its config of before, but for the keys ``allowed`` to have changed.
    Raises Interrupted after saving in answer to a signal; ConfigError, DataError and
    CheckpointError for input that cannot be used.
    """
    check(cfg)
    device = distributed.setup(cfg.DEVICE, cfg.TIMEOUT_MINUTES)
    folder = REPOSITORY / cfg.OUTPUT_DIR
    require_resume(folder, resume)
    data = build_data(cfg, device)
    plan = Plan(cfg, len(data), distributed.world_size())
    logger = setup_logger("pretrain", folder, distributed.rank())
    distributed.seed_everything(cfg.SEED)
    torch.backends.cudnn.benchmark = True
    run = Run(cfg, plan, data, device)
    if latest := checkpoints.load_latest(folder):
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
        f"{len(data)} images below {data.images.root}, {plan.total_steps} steps of "
        f"{plan.total_batch_size} images, peak lr {plan.lr.max():.4g}, on {device}"
    )
    with InterruptFlag() as interrupt, distributed.peers_answer():
        loop(run, data, interrupt, logger)
        distributed.barrier()  # rank 0 has written its last checkpoint
    path = checkpoints.list_checkpoints(folder)[-1]
    logger.info(f"done: {run.step} steps; {path}")
    return path


def require_resume(folder: Path, resume: bool) -> None:
    """Raise ConfigError rather than overwrite a run."""
    if checkpoints.list_checkpoints(folder) and not resume:
        raise ConfigError(f"{folder}: holds a run; add --resume or choose another OUTPUT_DIR")


def loop(run: Run, data: MultiCropImages, interrupt: InterruptFlag, logger: logging.Logger) -> None:
    """Micro-steps from the run's position to its end."""
    plan = run.plan
    if run.cfg.SOLVER.COMPILE:
        compile_networks(run.model, run.autocast(), run.device)
    model = distribute(run.model, run.device).train()
    clock, statistics = Clock(), Statistics()
    loader = build_loader(run.cfg, data, run.micro_step, run.device)
    bad_images = BadImages(run, data.images, logger)
    skipped_steps = SkippedSteps(run, data.images, logger)
    with Log(run, clock, logger) as log:
        checkpointer = Checkpointer(statistics, log, skipped_steps, logger)
        hooks = [log, skipped_steps, checkpointer, bad_images]
        if run.cfg.MONITOR.PERIOD:
            hooks.append(Monitor(run, log, clock, data))
        batches = on_device(clock.watch(loader), run.device)
        for micro_step, (views, batch) in enumerate(batches, start=run.micro_step):
            bad_images.add(batch.bad)
            ends_group = plan.ends_group(micro_step)
            momentum = float(plan.teacher_momentum[micro_step]) if ends_group else None
            with accumulate(model, ends_group):
                with run.autocast():
                    outputs = model(*views, momentum)
                run.scaler.scale(outputs["loss"] / plan.accumulation).backward()
            statistics.add(outputs, batch.images)
            run.micro_step = micro_step + 1
            if not ends_group:
                continue
            lr = float(plan.lr[micro_step])
            run.step += 1
            position = {"step": run.step, "epoch": run.epoch}
            skip = statistics.close_step(
                {**position, "lr": lr, "teacher_momentum": momentum},
                run.gradients(),
                bool(interrupt),
                bad_images.share,
            )
            run.update(lr, skip)
            previous = statistics.previous
            for hook in hooks:
                hook(run, previous)
            if previous and previous.interrupted:
                bad_images.agree()
                checkpointer.save(run)
                distributed.barrier()  # nobody leaves before rank 0 has written
                logger.info(f"interrupted after step {run.step}")
                raise Interrupted(f"after step {run.step}", interrupt.received)


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
    if cfg.MODEL.HEADS and (cfg.MODEL.HEADS < 0 or cfg.MODEL.DIM % cfg.MODEL.HEADS):
        raise ConfigError(
            f"MODEL.DIM {cfg.MODEL.DIM} is not a multiple of MODEL.HEADS {cfg.MODEL.HEADS}, which "
            "is 0 for none"
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
