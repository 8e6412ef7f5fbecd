"""python -m transfer: one fine-tuning, from converted weights to metrics.json."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from pretrain.runtime import distributed
from pretrain.runtime.command import with_exit_code
from pretrain.runtime.config import ConfigError, find_config
from pretrain.runtime.interrupt import InterruptFlag
from transfer import own, record
from transfer.config import resolve
from transfer.data.layout import DataError
from transfer.tasks import TASKS, Task, get_task
from transfer.train import fine_tune


@with_exit_code
def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run the command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    distributed.launch(args, "transfer", arguments)
    if args.imported is not None:
        own.run_file(args.imported)
    if args.list:
        for name, task in TASKS.items():
            print(f"{name}: {task.config}, ranked by {task.main_metric}")
    elif args.check_data:
        return _check_data(args)
    else:
        with InterruptFlag() as interrupted:
            _fine_tune(args, interrupted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m transfer",
        description="Fine-tune a pretrained backbone on a downstream task and evaluate it.",
    )
    add = parser.add_argument
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--task", metavar="NAME", help=f"one of {', '.join(TASKS)}")
    what.add_argument("--config-file", metavar="FILE", help="a YAML in place of a task")
    add("--import", dest="imported", metavar="FILE", help="a Python file, run before all else")
    add("--overlay", metavar="FILE", help="a YAML laid over the config, before KEY VALUE")
    add("--weights", metavar="FILE", help="what python -m transfer.convert wrote, or `random`")
    add("--output", type=Path, metavar="DIR", help="folder of this run")
    add("--seed", type=int, default=0, help="default 0")
    add("--init", metavar="NAME", help="what tables call the weights; default: their method")
    add("--resume", action="store_true", help="go on from the last checkpoint in --output, if any")
    only = "evaluate the last checkpoint in --output, or a whole model"
    add("--eval-only", action="store_true", help=only)
    pictures = "after the evaluation: draw predictions and ground truth of N images into DIR"
    add("--visualize", nargs=2, metavar=("N", "DIR"), help=pictures)
    add("--list", action="store_true", help="list the tasks and stop")
    add("--check-data", action="store_true", help="look at the data (of all tasks) and stop")
    distributed.add_launch_flags(parser)
    add("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, last")
    return parser


def _fine_tune(args: argparse.Namespace, interrupted: InterruptFlag) -> None:
    """Check the flags, resolve the config, join the other processes, and go."""
    if args.task is None and args.config_file is None:
        raise ConfigError(f"--task is missing; known: {', '.join(TASKS)} (or --config-file FILE)")
    for flag, value in (("--output", args.output), ("--weights", args.weights)):
        if value is None:
            raise ConfigError(f"{flag} is missing; see python -m transfer --help")
    if args.init is not None and not re.fullmatch(r"[a-z0-9_]+", args.init):
        raise ConfigError(f"--init {args.init}: only lower-case letters, digits and _")
    if args.visualize is not None:
        count, folder = args.visualize
        if not count.isdecimal():
            raise ConfigError(f"--visualize {count}: the number of images must be a whole number")
        args.visualize = int(count), Path(folder)
        args.visualize[1].mkdir(parents=True, exist_ok=True)  # or fail before the training
    name, task = _chosen(args)
    cfg = resolve(task.config, args.overlay, args.overrides)
    own.register_datasets(cfg, task.config)
    task = own.check_metrics(cfg, task)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.SEED = str(args.output), args.weights, args.seed
    cfg = _join(cfg)
    cfg.freeze()
    for logger in ("fvcore", "detectron2", "transfer"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=logger)
    try:
        fine_tune(cfg, name, task, args, interrupted)
    except (DataError, SizeMismatchError) as fault:
        said = str(fault)
        if "Traceback" in said:  # as a process of the loader sends it: the last line says what
            said = said.rstrip().splitlines()[-1].partition("Error: ")[2]
        raise DataError(said) from fault


def _chosen(args: argparse.Namespace) -> tuple[str, Task]:
    """Name and task; a config that is a task's own is that task."""
    if args.task is not None:
        return args.task, get_task(args.task)
    for name, task in TASKS.items():
        if find_config(task.config) == find_config(args.config_file):
            return name, task
    name = Path(args.config_file).stem
    if name in TASKS:
        raise ConfigError(
            f"{args.config_file}: a task is called {name} ({TASKS[name].config}); rename the file"
        )
    return name, Task(args.config_file)


def _join(cfg: CfgNode) -> CfgNode:
    """``cfg`` for the processes that work together, which have met then.

    Detectron2's default device is a GPU, here only where there is one. Raises ConfigError where
    device or batch do not suit.
    """
    device = distributed.setup("cpu" if cfg.MODEL.DEVICE == "cpu" else "auto")
    cfg.MODEL.DEVICE = device.type
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    processes = comm.get_world_size()
    if processes > 1:
        comm.create_local_process_group(int(os.environ.get("LOCAL_WORLD_SIZE", processes)))
    if cfg.SOLVER.AMP.ENABLED and device.type == "cpu" and cfg.TRANSFER.AMP_DTYPE != "bf16":
        raise ConfigError(
            f"SOLVER.AMP.ENABLED: a CPU cannot compute in {cfg.TRANSFER.AMP_DTYPE}. "
            "Add: TRANSFER.AMP_DTYPE bf16"
        )
    cfg = DefaultTrainer.auto_scale_workers(cfg, processes)
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is no multiple of the "
            f"{processes} processes"
        )
    return cfg


def _check_data(args: argparse.Namespace) -> int:
    """Look at the data of the chosen task, or of all; says the first fault of each."""
    one = args.task is not None or args.config_file is not None
    known, status = {}, 0
    for task in [_chosen(args)[1]] if one else TASKS.values():
        cfg = resolve(task.config, args.overlay, args.overrides)
        own.register_datasets(cfg, task.config)
        try:
            record.check_data(cfg, known, print)
        except (ConfigError, DataError) as error:
            print(f"error: {task.config}: {error}", file=sys.stderr)
            status = 2
    return status


if __name__ == "__main__":
    sys.exit(main())
