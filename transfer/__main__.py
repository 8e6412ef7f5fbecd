"""python -m transfer: one fine-tuning, from converted weights to metrics.json."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from pretrain.runtime import distributed, files
from pretrain.runtime.config import ConfigError, find_config
from pretrain.runtime.interrupt import EXIT_CODE, Interrupted, InterruptFlag
from transfer import data, own, record
from transfer.config import config_sha256, resolve
from transfer.convert import CheckpointError, load_converted
from transfer.data.layout import DataError
from transfer.evaluation import build_evaluator
from transfer.frozen import recompute_frozen_bn
from transfer.tasks import TASKS, Task, get_task
from transfer.train import Trainer, images_per_bn_batch
from transfer.visualize import visualize
from transfer.weights import check_agreement, load_backbone, load_model, read_model

RANDOM = "random"
WHOLE_MODEL = "model"  # in the place of a method: heads and all, for --eval-only
USER_ERROR = 2
KILLED = 130  # by a second Ctrl-C

Weights = dict[str, torch.Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 2 for a mistake, 75 or 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser().parse_args(arguments)
    try:
        _launch(args, arguments)
        with InterruptFlag() as interrupted:
            return _run(args, interrupted)
    except (CheckpointError, ConfigError, DataError, FloatingPointError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except Interrupted as reason:
        print(f"interrupted: {reason}; the same command with --resume goes on", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("interrupted: --resume goes on from the last checkpoint", file=sys.stderr)
        return KILLED
    finally:
        distributed.shutdown()


def _launch(args: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Detectron2's flags: become torchrun with these ``arguments``, unless torchrun runs us.

    Raises ConfigError for a number of processes that torchrun contradicts, and where several
    machines have no address to meet at.
    """
    processes = args.num_gpus * args.num_machines
    if processes == 1:  # torchrun's own number counts
        return
    if "WORLD_SIZE" in os.environ:
        if int(os.environ["WORLD_SIZE"]) != processes:
            raise ConfigError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, --num-gpus and "
                f"--num-machines ask for {processes}: leave these two out"
            )
        return
    if args.dist_url is None and args.num_machines == 1:
        place = ["--standalone"]
    else:
        url = urlsplit(args.dist_url or "")
        if url.scheme != "tcp" or not url.hostname or not url.port:
            raise ConfigError(
                f"--dist-url {args.dist_url}: several machines meet at machine 0's tcp://HOST:PORT"
            )
        place = [f"--nnodes={args.num_machines}", f"--node-rank={args.machine_rank}"]
        place += [f"--master-addr={url.hostname}", f"--master-port={url.port}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *place]
    torchrun += [f"--nproc-per-node={args.num_gpus}", "-m", "transfer", *arguments]
    os.execv(sys.executable, torchrun)


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
    add(
        "--eval-only",
        action="store_true",
        help="evaluate the last checkpoint in --output, or a whole model",
    )
    pictures = "after the evaluation: draw predictions and ground truth of N images into DIR"
    add("--visualize", nargs=2, metavar=("N", "DIR"), help=pictures)
    add("--list", action="store_true", help="list the tasks and stop")
    add("--check-data", action="store_true", help="look at the data (of all tasks) and stop")
    add("--num-gpus", type=int, default=1, metavar="N", help="processes a machine; default 1")
    add("--num-machines", type=int, default=1, metavar="N", help="default 1")
    add("--machine-rank", type=int, default=0, metavar="K", help="this machine's number, from 0")
    add("--dist-url", metavar="tcp://HOST:PORT", help="machine 0's; needed for several machines")
    add("overrides", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, last")
    return parser


def _run(args: argparse.Namespace, interrupted: InterruptFlag) -> int:
    if args.imported is not None:
        own.run_file(args.imported)
    if args.list:
        for name, task in TASKS.items():
            print(f"{name}: {task.config}, ranked by {task.main_metric}")
        return 0
    if args.check_data:
        return _check_data(args)
    _check_flags(args)
    name, task, config = _chosen(args)
    cfg = resolve(config, args.overlay, args.overrides)
    own.register_datasets(cfg, config)
    task = own.check_metrics(cfg, config, task)
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS, cfg.SEED = str(args.output), args.weights, args.seed

    _join(cfg)
    cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
    _check_batch(cfg, comm.get_world_size())
    cfg.freeze()
    for logger in ("fvcore", "detectron2", "transfer"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=logger)
    log = record.logger
    run, weights = _describe(args, name, cfg)
    record.check_same_run(args.output, cfg, run)
    done = args.output / record.METRICS
    if done.is_file() and not args.eval_only:
        log.info("%s exists: this run is done", done)
        return 0
    comm.synchronize()  # every rank has read what rank 0 is about to write
    if comm.is_main_process() and not args.eval_only:
        record.start(args.output, cfg, run)

    seed_all_rng(cfg.SEED + comm.get_rank())
    trainer = Trainer(cfg, interrupted)
    _load(trainer, args, run, weights)
    if args.eval_only:
        run["iterations"] = min(trainer.start_iter, trainer.max_iter)
        results = trainer.test(cfg, trainer.model)
    else:
        results = trainer.train()
    if comm.is_main_process():
        metrics = record.select_metrics(results, task)
        if cfg.TRANSFER.METRICS:
            metrics = {name: metrics[name] for name in cfg.TRANSFER.METRICS if name in metrics}
        if args.visualize is not None:
            count, folder = args.visualize
            written = visualize(cfg, trainer.model, int(count), Path(folder))
            log.info("%d pictures in %s", written, folder)
        path = args.output / "evaluation.json" if args.eval_only else done
        files.write_json(path, record.result(run, task, metrics, trainer.seconds))
        main = record.main_metric(metrics, task)
        log.info("%s %.3f; all in %s", main, metrics[main], path)
        verify_results(cfg, results)  # against TEST.EXPECTED_RESULTS, if any
    return 0


def _check_flags(args: argparse.Namespace) -> None:
    if args.task is None and args.config_file is None:
        raise ConfigError(f"--task is missing; known: {', '.join(TASKS)} (or --config-file FILE)")
    if args.output is None:
        raise ConfigError("--output is missing: the folder of this run")
    if args.weights is None:
        raise ConfigError(
            "--weights is missing: what python -m transfer.convert wrote, or the word random"
        )
    if args.init is not None and not re.fullmatch(r"[a-z0-9_]+", args.init):
        raise ConfigError(f"--init {args.init}: only lower-case letters, digits and _")
    if args.visualize is not None:
        _check_pictures(*args.visualize)


def _check_pictures(count: str, folder: str) -> None:
    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"--visualize {count}: the number of images must be 1 or more")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(
            f"--visualize: {folder} cannot be a folder ({fault.strerror}); choose another"
        ) from fault


def _chosen(args: argparse.Namespace) -> tuple[str, Task | None, str]:
    """Name, task and config file; a config that is a task's own is that task."""
    if args.task is not None:
        task = get_task(args.task)
        return args.task, task, task.config
    for name, task in TASKS.items():
        if find_config(task.config) == find_config(args.config_file):
            return name, task, task.config
    name = Path(args.config_file).stem
    if name in TASKS:
        raise ConfigError(
            f"{args.config_file}: a task is called {name} ({TASKS[name].config}); rename the file"
        )
    return name, None, args.config_file


def _join(cfg: CfgNode) -> None:
    """Process group and device; Detectron2's default device is a GPU, here only where one is."""
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


def _check_batch(cfg: CfgNode, processes: int) -> None:
    if cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is no multiple of the "
            f"{processes} processes"
        )


def _describe(
    args: argparse.Namespace, name: str, cfg: CfgNode
) -> tuple[dict[str, Any], Weights | None]:
    """What metrics.json says about the run before it starts, and the weights by their names.

    Looks at data and weights, so that whatever is wrong with them is said before anything is built.
    """
    train = [data.check(dataset) for dataset in cfg.DATASETS.TRAIN]
    test = [data.check(dataset) for dataset in cfg.DATASETS.TEST]
    for dataset in [*train, *test]:
        record.logger.info(data.describe(dataset))
    data.check_config(cfg, [*train, *test])
    build_evaluator(cfg, cfg.DATASETS.TEST[0])  # better now than after the training
    weights, meta = _read_weights(args, cfg)
    run = {
        "task": name,
        "init": args.init or meta["method"],
        "method": meta["method"],
        "pretrain_epochs": meta.get("pretrain_epochs"),
        "seed": cfg.SEED,
        "data": data.fingerprint(train, test),
        "weights_sha256": files.sha256_of(args.weights) if weights else None,
        "config_sha256": config_sha256(cfg),
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "images_per_bn_batch": images_per_bn_batch(cfg, comm.get_world_size()),
    }
    return run, weights


def _read_weights(args: argparse.Namespace, cfg: CfgNode) -> tuple[Weights | None, dict[str, Any]]:
    """The weights by their names, and what is known of them; None for random ones."""
    if args.weights == RANDOM:
        return None, {"method": RANDOM}
    if args.eval_only:
        model = read_model(args.weights)
        if model is not None:
            return model, {"method": WHOLE_MODEL}
    converted = load_converted(args.weights)
    check_agreement(cfg, converted["meta"], args.weights)
    return converted["model"], converted["meta"]


def _load(
    trainer: Trainer, args: argparse.Namespace, run: dict[str, Any], weights: Weights | None
) -> None:
    """The last checkpoint, where that is asked for, or the weights to begin with."""
    model = getattr(trainer.model, "module", trainer.model)  # out of DistributedDataParallel
    if run["method"] == WHOLE_MODEL:
        load_model(model, weights, args.weights)
        return
    if (args.resume or args.eval_only) and trainer.resume():
        return
    if args.eval_only:
        raise ConfigError(
            f"--eval-only: {args.output} holds no checkpoint, and --weights no whole model"
        )
    if weights is not None:
        filled = load_backbone(model, weights, args.weights)
        record.logger.info("%s: %d entries loaded", args.weights, len(filled))
    if count := trainer.cfg.TRANSFER.FROZEN_BN_BATCHES:
        layers = recompute_frozen_bn(model, trainer.stream.loader(num_workers=0), count)
        record.logger.info("statistics of %d frozen BN from %d batches", layers, count)
    if trainer.checkpointer.has_checkpoint():
        record.logger.info(
            "starting over; --resume would go on from the checkpoint in %s", args.output
        )


def _check_data(args: argparse.Namespace) -> int:
    """Look at the data of the chosen task, or of all."""
    one = args.task is not None or args.config_file is not None
    configs = [_chosen(args)[2]] if one else [task.config for task in TASKS.values()]
    found: dict[str, data.Dataset | None] = {}
    faults = []
    for config in configs:
        cfg = resolve(config, args.overlay, args.overrides)
        own.register_datasets(cfg, config)
        names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
        for name in [name for name in names if name not in found]:
            found[name] = None
            try:
                found[name] = data.check(name)
                print(data.describe(found[name]))
            except DataError as error:
                faults.append(str(error))
        try:
            if all(found[name] for name in names):
                data.check_config(cfg, [found[name] for name in names])
                build_evaluator(cfg, cfg.DATASETS.TEST[0])
        except (ConfigError, DataError) as error:
            faults.append(f"{config}: {error}")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return USER_ERROR if faults else 0


if __name__ == "__main__":
    sys.exit(main())
