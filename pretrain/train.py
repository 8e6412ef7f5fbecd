"""The pretraining loop: batch, forward, backward, step, log, save; top to bottom."""

import contextlib
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain import photometry
from pretrain.config import check
from pretrain.data import MultiCropImages, build_data, build_loader
from pretrain.data.bad_images import BadImages
from pretrain.data.device import on_device
from pretrain.methods import complete
from pretrain.monitor.log import Log
from pretrain.monitor.monitor import Monitor
from pretrain.run import Plan, Run
from pretrain.runtime import checkpoints, distributed
from pretrain.runtime.config import REPOSITORY, ConfigError
from pretrain.runtime.files import write_json, write_text
from pretrain.runtime.interrupt import Interrupted, InterruptFlag
from pretrain.runtime.logging import setup_logger
from pretrain.runtime.provenance import provenance


def distribute(model: nn.Module, device: torch.device) -> nn.Module:
    """Gradients averaged over the ranks, and SyncBN; the model itself in one process."""
    if distributed.world_size() == 1:
        return model
    if model.synchronize_bn:
        model = distributed.synchronize_batch_norm(model)
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(
        model, ids, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def train(cfg: CfgNode, resume: bool = False, allowed: Collection[str] = ()) -> Path:
    """Run or go on with a pretraining; returns the last checkpoint's path.

    A run that goes on has its config of before, but for the keys ``allowed`` to have changed.
    Raises Interrupted after saving in answer to a signal; ConfigError, DataError and
    CheckpointError for input that cannot be used.
    """
    check(cfg)
    cfg = complete(cfg)
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
        write_text(folder / "config.yaml", cfg.dump())
        write_json(folder / "provenance.json", provenance())
    logger.info(
        f"{len(data)} images below {data.images.root}, {plan.total_steps} steps of "
        f"{plan.total_batch_size} images, peak lr {plan.lr.max():.4g}, on {device}"
    )
    if data.images.remark:
        logger.warning(f"{data.images.root}: {data.images.remark}")
    most = plan.length * plan.images_per_micro_step
    if most < plan.total_batch_size:
        logger.warning(
            f"warning: a step has {most} of the {len(data)} images, not SOLVER.TOTAL_BATCH_SIZE "
            f"{plan.total_batch_size}, to which the learning rate belongs: lower that number"
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
    plan, cfg = run.plan, run.cfg
    model = distribute(run.model, run.device).train()
    prepare = photometry.prepare
    if cfg.SOLVER.COMPILE and run.device.type == "cuda":
        compile_parts(run.model, logger)
        prepare = compiled(prepare, logger)
    loader = build_loader(cfg, data, run.micro_step, run.device)
    bad_images = BadImages(run.folder, data.images, cfg.DATA.MAX_BAD_SHARE, logger)
    with Log(run, logger) as log, contextlib.closing(log.clock.watch(loader)) as timed:
        monitor = Monitor(run, log, data) if cfg.MONITOR.PERIOD else None
        batches = on_device(timed, run.device, run.model.boxes, run.dtype, prepare)
        for micro_step, (views, batch) in enumerate(batches, start=run.micro_step):
            bad_images.add(batch.bad)
            ends_group = plan.ends_group(micro_step)  # else gradients go on adding up
            momentum = float(plan.teacher_momentum[micro_step]) if ends_group else None
            with synchronized(model, ends_group):
                with run.autocast():
                    outputs = model(*views, momentum)
                run.scaler.scale(outputs["loss"] / plan.accumulation).backward()
            log.add(outputs, batch.images)
            run.micro_step = micro_step + 1
            if not ends_group:
                continue

            lr = float(plan.lr[micro_step])
            finite = run.update(lr)
            run.step += 1
            host = {"step": run.step, "epoch": run.epoch, "lr": lr, "teacher_momentum": momentum}
            told = log.close_step(host, finite, bool(interrupt), bad_images.share)
            interrupted = told is not None and told.interrupted
            if run.micro_step % plan.length == 0 or interrupted:
                bad_images.agree()
            if plan.saves(micro_step) or interrupted:
                told = log.read()  # of this step, which must be finite: nothing is saved after it
                run.save()
            bad_images.require_few(told.bad_images if told else 0)
            if monitor:
                monitor(run)
            if told and told.interrupted:
                distributed.barrier()  # nobody leaves before rank 0 has written
                logger.info(f"interrupted after step {run.step}")
                raise Interrupted(f"after step {run.step}", interrupt.received)


def compile_parts(model: nn.Module, logger: logging.Logger) -> None:
    """The networks and functions that ``model.compiled`` names."""
    for name in model.compiled:
        part = getattr(model, name)
        if isinstance(part, nn.Module):
            part._compiled_call_impl = compiled(part._call_impl, logger)  # as Module.compile does
        else:
            setattr(model, name, compiled(part, logger))


def compiled(function: Callable[..., Any], logger: logging.Logger) -> Callable[..., Any]:
    """``function`` as one graph for every resolution; as it is, and a warning, where that fails."""
    fast = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal fast
        try:
            return fast(*args, **kwargs)
        except Exception as error:  # a compiler can fail with any
            if fast is function:
                raise
            reason = str(error).strip().partition("\n")[0]
            logger.warning(
                f"warning: torch.compile failed; this part runs without it, which is slower "
                f"({type(error).__name__}: {reason})"
            )
            fast = function
            return function(*args, **kwargs)

    return call


def synchronized(model: nn.Module, ends_group: bool) -> contextlib.AbstractContextManager:
    """No reduction between ranks before the group's last micro-step."""
    ddp = isinstance(model, nn.parallel.DistributedDataParallel)
    return model.no_sync() if ddp and not ends_group else contextlib.nullcontext()
