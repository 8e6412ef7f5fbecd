"""One fine-tuning, from weights to ``metrics.json``, built as Detectron2's plain_train_net.py is.

``fine_tune`` says what happens in which order, ``train`` is the loop. After the last iteration the
BN statistics are recomputed (PreciseBN), then the model is evaluated. Whatever takes long can be
interrupted: there is always a checkpoint from just before it. Every random draw follows from the
seed and the iteration or the place in the training stream, so that a resumed run does what an
uninterrupted one would have done.
"""

import argparse
import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer, create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format, verify_results
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.utils import comm, events
from detectron2.utils.env import seed_all_rng
from fvcore.nn.precise_bn import update_bn_stats
from torch import nn

from pretrain.runtime import files
from pretrain.runtime.config import ConfigError
from pretrain.runtime.distributed import autocast_dtype, synchronize_batch_norm
from pretrain.runtime.interrupt import Interrupted, InterruptFlag
from transfer import record, weights
from transfer.config import AMP_DTYPES
from transfer.data.stream import PRECISE_BN, STEP, Stream, evaluation_loader, seed_rng
from transfer.evaluation import build_evaluator
from transfer.tasks import Task
from transfer.visualize import visualize

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"  # holds the name of the newest
FINAL = "model_final"  # the checkpoint with recomputed BN statistics
PARTS = ("model", "optimizer", "scheduler", "scaler")  # of a checkpoint
WINDOW = 20  # iterations between two lines of the log


def fine_tune(
    cfg: CfgNode,
    name: str,
    task: Task,
    flags: argparse.Namespace,
    interrupted: InterruptFlag,
) -> None:
    """Train and evaluate, and leave ``metrics.json`` in OUTPUT_DIR; nothing, where it is there.

    cfg: resolved, with OUTPUT_DIR, MODEL.WEIGHTS and SEED; name and task: what it is the config of.
    flags: ``init``, what tables call the weights, or None; ``resume``; ``eval_only``, which
    evaluates the last checkpoint, or a whole model, and leaves ``evaluation.json``; ``visualize``,
    of how many images to draw pictures, and into which folder, or None.

    Raises CheckpointError, ConfigError and DataError for what cannot be used, FloatingPointError
    for a loss that is not finite, and Interrupted after a signal.
    """
    output = Path(cfg.OUTPUT_DIR)
    entries, meta = weights.read(cfg, or_model=flags.eval_only)
    about = record.describe(cfg, name, flags.init, meta)
    record.check_same_run(output, cfg, about, flags.eval_only)
    done = output / record.METRICS
    if done.is_file() and not flags.eval_only:
        logger.info("%s exists: this run is done", done)
        return
    comm.synchronize()  # every rank has read what rank 0 is about to write
    if comm.is_main_process() and not flags.eval_only:
        record.start(output, cfg, about)

    seed_all_rng(cfg.SEED + comm.get_rank())
    run = Run(cfg, interrupted)
    if meta["method"] == weights.WHOLE_MODEL:
        weights.load_model(run.model, entries, cfg.MODEL.WEIGHTS)
    elif (flags.resume or flags.eval_only) and run.resume():
        logger.info("%s: going on after iteration %d", output, run.iteration)
    elif flags.eval_only:
        raise ConfigError(f"--eval-only: no checkpoint in {output}, and --weights no whole model")
    else:
        if entries is not None:
            filled = weights.load_backbone(run.model, entries, cfg.MODEL.WEIGHTS)
            logger.info("%s: %d entries loaded", cfg.MODEL.WEIGHTS, len(filled))
        if (output / LAST).is_file():
            logger.info("starting over; --resume would go on from the checkpoint in %s", output)
    if flags.eval_only:
        about["iterations"] = run.iteration
    else:
        train(run)

    results = evaluate(run)
    if not comm.is_main_process():
        return
    metrics = record.select_metrics(results, task, cfg.TRANSFER.METRICS)
    if flags.visualize is not None:
        count, folder = flags.visualize
        logger.info("%d pictures in %s", visualize(cfg, run.steady, count, folder), folder)
    path = output / "evaluation.json" if flags.eval_only else done
    result = record.result(about, task, metrics, run.seconds)
    files.write_json(path, result)
    main = result["main_metric"]
    logger.info("%s %.3f; all in %s", main, metrics[main], path)
    verify_results(cfg, results)  # against TEST.EXPECTED_RESULTS, if any


class Run:
    """What a checkpoint holds: weights, optimizer, position."""

    def __init__(self, cfg: CfgNode, interrupted: InterruptFlag) -> None:
        self.cfg, self.interrupted = cfg, interrupted
        self.model = synchronize_batch_norm(build_model(cfg), nn.SyncBatchNorm)
        self.optimizer = build_optimizer(cfg, self.model)
        self.scheduler = build_lr_scheduler(cfg, self.optimizer)
        device, dtype = cfg.MODEL.DEVICE, None
        if cfg.SOLVER.AMP.ENABLED:
            dtype = autocast_dtype(AMP_DTYPES[cfg.TRANSFER.AMP_DTYPE], device, logger)
        self.autocast = torch.autocast(device, dtype, enabled=dtype is not None)
        self.scaler = torch.amp.GradScaler(device, enabled=dtype is torch.float16)
        self.steady = Steady(self, interrupted)
        self.iteration = 0  # iterations done
        self.final = False  # whether BN statistics are recomputed, too
        self._began = time.monotonic()  # less the seconds of the parts before

    @property
    def seconds(self) -> float:
        """Time spent on this run so far, all its resumed parts together."""
        return time.monotonic() - self._began

    def save(self, name: str) -> None:
        """Write a checkpoint on rank 0; the one before goes when this one is whole."""
        if comm.is_main_process():
            path = Path(self.cfg.OUTPUT_DIR, f"{name}.pth")
            content = {name: getattr(self, name).state_dict() for name in PARTS}
            content |= {"iteration": self.iteration, "seconds": self.seconds}
            files.write_torch(path, content)
            files.write_text(path.with_name(LAST), path.name)
            for other in path.parent.glob("model_*.pth"):
                if other != path:
                    other.unlink()
        comm.synchronize()  # nobody leaves before rank 0 has written

    def resume(self) -> bool:
        """Go on from the last checkpoint in OUTPUT_DIR; False if there is none."""
        last = Path(self.cfg.OUTPUT_DIR, LAST)
        if not last.is_file():
            return False
        path = last.with_name(last.read_text())
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can make torch raise anything
            raise ConfigError(
                f"{path}: cannot be read ({type(error).__name__}); without --resume the run starts "
                "over"
            ) from error
        for name in PARTS:
            getattr(self, name).load_state_dict(content[name])
        self.iteration, self.final = content["iteration"], path.stem == FINAL
        self._began = time.monotonic() - content["seconds"]
        return True


class Steady(nn.Module):
    """The model while its weights stay: in PreciseBN, evaluation and pictures.

    Nothing new is to be saved then: a signal ends the run at the next batch.
    """

    def __init__(self, run: "Run", interrupted: InterruptFlag) -> None:
        super().__init__()
        self.model, self.interrupted = run.model, interrupted
        # As in Detectron2, a GPU evaluates in fp32
        self.autocast = run.autocast if run.cfg.MODEL.DEVICE == "cpu" else nullcontext()

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        if self.interrupted:
            raise Interrupted("nothing was lost since the last checkpoint")
        with self.autocast:
            return self.model(batch)


def train(run: Run) -> None:
    """Train from ``run.iteration`` to the end, recompute BN statistics, save.

    Raises Interrupted after a signal, with a checkpoint to resume from, and FloatingPointError for
    a loss that is not finite.
    """
    cfg, solver, period = run.cfg, run.cfg.SOLVER, run.cfg.TEST.EVAL_PERIOD
    stream = Stream(cfg)
    count = cfg.TRANSFER.FROZEN_BN_BATCHES
    if count and not run.iteration:
        layers = weights.recompute_frozen_bn(run.model, stream.loader(0), count)
        logger.info("statistics of %d frozen BN from %d batches", layers, count)
    # A model on the CPU must not have a device id
    device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE == "cuda" else None
    model = create_ddp_model(
        run.model, broadcast_buffers=False, gradient_as_bucket_view=True, device_ids=device_ids
    ).train()
    batches = iter(stream.loader(cfg.DATALOADER.NUM_WORKERS, start=run.iteration))
    writers: list[events.EventWriter] = []
    if comm.is_main_process():
        writers = [
            events.CommonMetricPrinter(solver.MAX_ITER),
            # Not its usual metrics.json, which is the result here
            events.JSONWriter(str(Path(cfg.OUTPUT_DIR, "training.jsonl"))),
            events.TensorboardXWriter(cfg.OUTPUT_DIR),
        ]
    with events.EventStorage(run.iteration) as storage:
        try:
            for iteration in range(run.iteration, solver.MAX_ITER):
                storage.iter = iteration
                seed_rng(cfg.SEED, STEP, comm.get_rank(), iteration)  # boxes are sampled at random
                start = time.perf_counter()
                batch = next(batches)
                data_time = time.perf_counter() - start
                with run.autocast:
                    losses = model(batch)
                run.scaler.scale(sum(losses.values())).backward()
                SimpleTrainer.write_metrics(losses, data_time, iteration)  # raises at NaN
                run.scaler.step(run.optimizer)
                run.scaler.update()
                run.optimizer.zero_grad()
                storage.put_scalars(time=time.perf_counter() - start)
                lr = run.optimizer.param_groups[0]["lr"]
                storage.put_scalar("lr", lr, smoothing_hint=False)
                run.scheduler.step()
                run.iteration = done = iteration + 1

                # Save every so often, before anything long, and before leaving
                leaving = any(comm.all_gather(bool(run.interrupted)))
                last, evaluates = done == solver.MAX_ITER, period > 0 and done % period == 0
                if leaving or last or evaluates or done % solver.CHECKPOINT_PERIOD == 0:
                    run.save(f"model_{done:07d}")
                if leaving:
                    raise Interrupted(f"saved after iteration {done} of {solver.MAX_ITER}")
                if evaluates and not last:
                    recompute_bn(run, stream)
                    results = flatten_results_dict(evaluate(run))
                    storage.put_scalars(**results, smoothing_hint=False)
                    comm.synchronize()  # ranks may have evaluated for more or less long
                if last or done % WINDOW == 0:
                    for writer in writers:
                        writer.write()
            storage.iter = solver.MAX_ITER  # by which the printer knows that training is over
        finally:
            for writer in writers:
                writer.write()
                writer.close()
    if not run.final:
        recompute_bn(run, stream)
        if comm.get_world_size() > 1:
            # Without SyncBN every rank has statistics of its own: all evaluate what is saved
            for buffer in run.model.buffers():
                dist.broadcast(buffer, src=0)
        run.save(FINAL)


def recompute_bn(run: Run, stream: Stream) -> None:
    """PreciseBN, if asked for, on the same batches and random numbers whenever it runs."""
    if run.cfg.TEST.PRECISE_BN.ENABLED:
        batches = stream.loader(0)
        # Where no image has an object a mask head's BN sees nothing, and fvcore divides by that
        batches = (batch for batch in batches if any(len(image["instances"]) for image in batch))
        seed_rng(run.cfg.SEED, PRECISE_BN, comm.get_rank())
        with events.EventStorage():  # what the model says of its losses is no part of the curve
            update_bn_stats(run.steady, batches, run.cfg.TEST.PRECISE_BN.NUM_ITER)


def evaluate(run: Run) -> dict[str, dict[str, float]]:
    """The evaluator's nested results, empty on ranks other than 0."""
    (name,) = run.cfg.DATASETS.TEST
    loader, evaluator = evaluation_loader(run.cfg, name), build_evaluator(run.cfg, name)
    results = inference_on_dataset(run.steady, loader, evaluator)
    print_csv_format(results)
    return results
