"""What a fine-tuning leaves beside its checkpoint: whose run it is, and ``metrics.json``."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from pretrain.runtime import files, provenance
from pretrain.runtime.config import ConfigError, is_within, load_yaml
from transfer import data
from transfer.config import config_sha256, differences, images_per_bn_batch
from transfer.data.layout import Dataset
from transfer.densepose.matching import NO_TRUTH
from transfer.evaluation import build_evaluator
from transfer.tasks import Task
from transfer.weights import RANDOM

logger = logging.getLogger(__name__)

METRICS = "metrics.json"  # written last: its presence means done
PROVENANCE = "provenance.json"
CONFIG = "config.yaml"


def check_data(
    cfg: CfgNode, known: dict[str, Dataset], say: Callable[[str], None]
) -> tuple[list[Dataset], list[Dataset]]:
    """The data sets of training and test, looked at before anything is built.

    known: what has been looked at already, by name; grows. say: takes a line on each. Raises
    DataError, and ConfigError where they do not suit the config or have no evaluator.
    """
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        if name not in known:
            known[name] = data.check(name)
            say(data.describe(known[name]))
    train, test = ([known[n] for n in names] for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST))
    data.check_config(cfg, [*train, *test])
    build_evaluator(cfg, cfg.DATASETS.TEST[0])
    return train, test


def describe(cfg: CfgNode, name: str, init: str | None, meta: dict[str, Any]) -> dict[str, Any]:
    """What ``metrics.json`` says of a run before it starts.

    meta: what is known of the weights.
    """
    train, test = check_data(cfg, {}, logger.info)
    random = cfg.MODEL.WEIGHTS == RANDOM
    return {
        "task": name,
        "init": init or meta["method"],
        "method": meta["method"],
        "pretrain_epochs": meta.get("pretrain_epochs"),
        "depth": cfg.MODEL.RESNETS.DEPTH,
        "seed": cfg.SEED,
        "data": data.fingerprint(train, test),
        "weights_sha256": None if random else files.sha256_of(cfg.MODEL.WEIGHTS),
        "config_sha256": config_sha256(cfg),
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "images_per_bn_batch": images_per_bn_batch(cfg, comm.get_world_size()),
    }


def check_same_run(
    output: Path, cfg: CfgNode, about: dict[str, Any], eval_only: bool = False
) -> None:
    """ConfigError when ``output`` holds another run than this one; a new folder is fine.

    about: what ``metrics.json`` will say of it: task, init, seed, hashes and so on. eval_only: what
    concerns the evaluation alone, as MODEL.ROI_HEADS.SCORE_THRESH_TEST, may differ.
    """
    changed = {}
    if (output / CONFIG).is_file():
        changed = differences(cfg, load_yaml((output / CONFIG).absolute()))
    if eval_only:
        of_test = ("TEST", "DENSEPOSE_EVALUATION")
        changed = {
            key: values
            for key, values in changed.items()
            if not (is_within(key, of_test) or key.endswith("_TEST"))
        }
    if (output / PROVENANCE).is_file():
        try:
            earlier = json.loads((output / PROVENANCE).read_text())["run"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{output / PROVENANCE}: is damaged; delete that folder") from error
        for key, value in about.items():
            if key != "config_sha256" and earlier.get(key) != value:
                changed[key] = (value, earlier.get(key))
    if changed:
        shown = [f"{key} {old}, now {new}" for key, (new, old) in list(changed.items())[:5]]
        raise ConfigError(
            f"{output} holds another run ({'; '.join(shown)}{'; …' * (len(changed) > 5)}). "
            "Choose another --output, or delete that folder"
        )


def start(output: Path, cfg: CfgNode, about: dict[str, Any]) -> None:
    """Write the frozen full config and where everything comes from."""
    files.write_text(output / CONFIG, cfg.dump())
    files.write_json(output / PROVENANCE, {"run": about, **provenance.provenance()})


def select_metrics(
    results: dict[str, dict[str, float]], task: Task, only: Sequence[str] = ()
) -> dict[str, float]:
    """``{"bbox/AP50": 12.3}`` out of an evaluator's nested results, per-category values left out.

    only: if given, the names to keep, in their order.
    A value that could not be computed is left out and logged: without a large object APl is NaN,
    of DensePose -100.
    ConfigError where that is the one that ranks, and where evaluation gave not one of the task's.
    """
    given = {
        f"{group}/{name}": float(value)
        for group, values in results.items()
        for name, value in values.items()
        if not name.startswith("AP-")
    }
    metrics = {k: v for k, v in given.items() if math.isfinite(v) and v != NO_TRUTH}
    if undefined := [name for name in given if name not in metrics]:
        logger.info("left out, the data set has nothing to compute: %s", ", ".join(undefined))
    absent = [name for name in task.metrics if name not in given]
    if task.main_metric in undefined:
        absent.append(task.main_metric)
    if absent or not metrics:
        raise ConfigError(f"evaluation gave no {', '.join(absent) or 'metric'}; it gave {results}")
    return {name: metrics[name] for name in only or metrics if name in metrics}


def result(
    about: dict[str, Any], task: Task, metrics: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The content of ``metrics.json`` (format 1)."""
    main = task.main_metric or next((n for n in metrics if n.endswith("/AP")), next(iter(metrics)))
    return {
        "format": 1,
        **about,
        "main_metric": main,
        "metrics": metrics,
        "seconds": round(seconds, 1),
        **provenance.provenance(),
    }
