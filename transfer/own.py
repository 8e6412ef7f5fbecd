"""Tasks of one's own: a YAML that names data sets and metrics, or a Python file for the rest."""

import importlib.util
import sys
import traceback
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from pretrain.runtime.config import ConfigError, find_config, nearest
from transfer.data.layout import data_root
from transfer.tasks import Task

PLACES = {"JSON": "json_file", "IMAGES": "image_root"}  # key in the config: name in the metadata
SWITCHES = {  # what reports the metrics of these groups
    "segm": "MASK_ON",
    "keypoints": "KEYPOINT_ON",
    "densepose_gps": "DENSEPOSE_ON",
    "densepose_gpsm": "DENSEPOSE_ON",
}
COCO_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


def run_file(path: str) -> None:
    """Run a Python file that extends what is known, before any config is read.

    It may register data sets with Detectron2 and add to ``transfer.tasks.TASKS``,
    ``transfer.data.CHECKS`` and ``transfer.evaluation.EVALUATORS``. Raises ConfigError with the
    file and the line of whatever goes wrong in it.
    """
    file = find_config(path)
    name = f"imported_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None:
        raise ConfigError(f"--import {path}: not a .py file")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it may raise anything
        lines = [
            f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)
        ]
        line = lines[-1] if lines else getattr(error, "lineno", "?")
        raise ConfigError(
            f"--import {path}, line {line}: {type(error).__name__}: {error}"
        ) from error


def register_datasets(cfg: CfgNode, source: str) -> None:
    """Make what ``TRANSFER.DATASETS`` names known to Detectron2, as COCO-format data sets.

    source: the config, for messages. Raises ConfigError for a missing or unknown key, and for a
    name that another data set has.
    """
    for name, entry in cfg.TRANSFER.DATASETS.items():
        where = f"{source}: TRANSFER.DATASETS.{name}"
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: expected {{JSON: file, IMAGES: folder}}, found {entry!r}")
        for key in entry:
            if key not in PLACES:
                raise ConfigError(f"{where}: unknown key {key}{nearest(key, PLACES)}")
        for key in PLACES:
            if not isinstance(entry.get(key), str):
                raise ConfigError(f"{where}: {key} is missing: a path")
        places = {
            known: str(data_root() / Path(entry[key]).expanduser()) for key, known in PLACES.items()
        }
        if name not in DatasetCatalog:
            register_coco_instances(name, {}, **places)
        elif any(MetadataCatalog.get(name).get(key) != place for key, place in places.items()):
            raise ConfigError(f"{where}: another data set has that name; choose a different one")


def check_metrics(cfg: CfgNode, source: str, task: Task | None) -> Task | None:
    """The task with the metrics of ``TRANSFER.METRICS``; ``task`` itself where there are none.

    Raises ConfigError for metrics that an evaluation of COCO's would not give, and for those of a
    task that overrides have switched off: better now than after the training.
    """
    metrics = tuple(cfg.TRANSFER.METRICS)
    if not metrics:
        if task is not None:
            _check_learnt(cfg, source, task)
        return task
    where = f"{source}: TRANSFER.METRICS"
    if task is not None:
        raise ConfigError(f"{where}: for configs of one's own; this one's task has its metrics")
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"{where}: a metric comes twice in {', '.join(metrics)}")
    if MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("evaluator_type") == "coco":
        model = cfg.MODEL
        groups = {"bbox": True, "segm": model.MASK_ON, "keypoints": model.KEYPOINT_ON}
        known = [f"{g}/{name}" for g, on in groups.items() if on for name in COCO_METRICS[g]]
        for metric in metrics:
            if metric not in known:
                raise ConfigError(
                    f"{where}: this model gives no {metric}{nearest(metric, known)}; "
                    f"it gives {', '.join(known)}"
                )
    return Task(config=source, metrics=metrics, main_metric=metrics[0])


def _check_learnt(cfg: CfgNode, source: str, task: Task) -> None:
    for metric in task.metrics:
        switch = SWITCHES.get(metric.partition("/")[0])
        if switch is not None and not cfg.MODEL[switch]:
            raise ConfigError(
                f"MODEL.{switch} False: the task reports {metric}. Without it, give a YAML of your "
                f"own with _BASE_: {source} as --config-file"
            )
