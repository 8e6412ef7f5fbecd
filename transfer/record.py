"""What a fine-tuning leaves beside its checkpoint: whose run it is, and ``metrics.json``."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from pretrain.runtime import files, provenance
from pretrain.runtime.config import ConfigError, load_yaml
from transfer.config import differences
from transfer.densepose.matching import NO_TRUTH
from transfer.tasks import Task

logger = logging.getLogger(__name__)

METRICS = "metrics.json"  # written last: its presence means done
PROVENANCE = "provenance.json"
CONFIG = "config.yaml"
SHOWN_DIFFERENCES = 5


def check_same_run(output: Path, cfg: CfgNode, run: dict[str, Any]) -> None:
    """ConfigError when ``output`` holds another run than this one; a new folder is fine.

    run: what ``metrics.json`` will say of it: task, init, seed, hashes and so on.
    """
    if (output / CONFIG).is_file():
        changed = differences(cfg, load_yaml((output / CONFIG).absolute()))
    else:
        changed = {}
    if (output / PROVENANCE).is_file():
        earlier = json.loads((output / PROVENANCE).read_text())["run"]
        for key in run:
            if key != "config_sha256" and earlier.get(key) != run[key]:
                changed[key] = (run[key], earlier.get(key))
    if changed:
        shown = [f"{key} {old}, now {new}" for key, (new, old) in changed.items()]
        more = len(shown) - SHOWN_DIFFERENCES
        shown = shown[:SHOWN_DIFFERENCES] + ([f"and {more} more"] if more > 0 else [])
        raise ConfigError(
            f"{output} holds another run ({'; '.join(shown)}). "
            "Choose another --output, or delete that folder"
        )


def start(output: Path, cfg: CfgNode, run: dict[str, Any]) -> None:
    """Write the frozen full config and where everything comes from."""
    files.write_text(output / CONFIG, cfg.dump())
    files.write_json(output / PROVENANCE, {"run": run, **provenance.provenance()})


def select_metrics(results: dict[str, dict[str, float]], task: Task | None) -> dict[str, float]:
    """``{"bbox/AP50": 12.3}`` out of an evaluator's nested results, per-category values left out.

    A value that could not be computed is left out and logged: without a large object APl is NaN,
    of DensePose -100.
    ConfigError where that is the one that ranks, and where evaluation gave not one of the task's.
    """
    metrics = {
        f"{group}/{name}": float(value)
        for group, values in results.items()
        for name, value in values.items()
        if not name.startswith("AP-")
    }
    absent = [name for name in (task.metrics if task else ()) if name not in metrics]
    undefined = [
        name for name, value in metrics.items() if not math.isfinite(value) or value == NO_TRUTH
    ]
    if undefined:
        logger.info("left out, the data set has nothing to compute: %s", ", ".join(undefined))
    metrics = {name: value for name, value in metrics.items() if name not in undefined}
    if task and task.main_metric in undefined:
        absent.append(task.main_metric)
    if absent or not metrics:
        raise ConfigError(f"evaluation gave no {', '.join(absent) or 'metric'}; it gave {results}")
    return metrics


def main_metric(metrics: dict[str, float], task: Task | None) -> str:
    """The task's ranking metric; without a task the first AP that the evaluator gave."""
    return task.main_metric if task else next(name for name in metrics if name.endswith("/AP"))


def result(
    run: dict[str, Any], task: Task | None, metrics: dict[str, float], seconds: float
) -> dict[str, Any]:
    """The content of ``metrics.json`` (format 1)."""
    return {
        "format": 1,
        **run,
        "main_metric": main_metric(metrics, task),
        "metrics": metrics,
        "seconds": round(seconds, 1),
        **provenance.provenance(),
    }
