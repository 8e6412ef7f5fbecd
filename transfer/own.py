"""Tasks of one's own: a YAML that names data sets and metrics, or a Python file for the rest."""

import importlib.util
import sys
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.runtime.config import ConfigError, find_config, plain
from transfer.data import coco
from transfer.data.layout import data_root
from transfer.tasks import Task

SWITCHES = {  # without which a model has no metrics of these groups
    "segm": "MASK_ON",
    "keypoints": "KEYPOINT_ON",
    "densepose_gps": "DENSEPOSE_ON",
    "densepose_gpsm": "DENSEPOSE_ON",
}


def run_file(path: str) -> None:
    """Run a Python file that extends what is known, before any config is read.

    It may register data sets with Detectron2 and add to ``transfer.tasks.TASKS``,
    ``transfer.data.CHECKS`` and ``transfer.evaluation.EVALUATORS``. What goes wrong in it
    ends the program with Python's own traceback.
    """
    file = find_config(path)
    spec = importlib.util.spec_from_file_location(f"imported_{file.stem}", file)
    if spec is None:
        raise ConfigError(f"--import {path}: not a .py file")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def register_datasets(cfg: CfgNode, source: str) -> None:
    """Make what ``TRANSFER.DATASETS`` names known to Detectron2, as COCO-format data sets.

    source: the config, for messages. Raises ConfigError for an entry that is not JSON and IMAGES
    (and FLIP_MAP, pairs of keypoints), and for a name that another data set has.
    """
    for name, entry in cfg.TRANSFER.DATASETS.items():
        where, entry = f"{source}: TRANSFER.DATASETS.{name}", plain(entry)
        flips = entry.pop("FLIP_MAP", None) if isinstance(entry, dict) else None
        if not (
            isinstance(entry, dict)
            and entry.keys() == {"JSON", "IMAGES"}
            and all(isinstance(path, str) for path in entry.values())
        ):
            raise ConfigError(f"{where}: expected {{JSON: file, IMAGES: folder}}, found {entry}")
        json_file, images = (
            str(data_root() / Path(entry[key]).expanduser()) for key in ("JSON", "IMAGES")
        )
        if name not in DatasetCatalog:
            coco.register(name, json_file, images)
        known = MetadataCatalog.get(name)
        if (known.get("json_file"), known.get("image_root")) != (json_file, images):
            raise ConfigError(f"{where}: another data set has that name; choose a different one")
        if flips is not None:
            pairs = flips if isinstance(flips, list) else [flips]
            if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
                raise ConfigError(f"{where}: FLIP_MAP is not [[one, other], ...], but {flips}")
            names = [str(name) for pair in pairs for name in pair]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ConfigError(f"{where}: FLIP_MAP has {twice[0]} in two places")
            known.set(keypoint_flip_map=tuple((str(one), str(other)) for one, other in flips))


def check_metrics(cfg: CfgNode, task: Task) -> Task:
    """The task with the metrics of ``TRANSFER.METRICS``; ``task`` itself where there are none.

    Raises ConfigError for metrics that the model cannot have, as those of a task that overrides
    have switched off: better now than after the training.
    """
    metrics = tuple(cfg.TRANSFER.METRICS)
    if metrics and task.metrics:
        raise ConfigError(f"{task.config}: TRANSFER.METRICS is for configs without a task")
    for metric in metrics or task.metrics:
        switch = SWITCHES.get(metric.partition("/")[0])
        if switch is not None and not cfg.MODEL[switch]:
            raise ConfigError(
                f"{task.config}: with MODEL.{switch} False there is no {metric}. Report other "
                "metrics (TRANSFER.METRICS) by a YAML of your own, given as --config-file"
            )
    return Task(task.config, metrics, metrics[0]) if metrics else task
