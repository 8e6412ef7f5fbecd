"""Tasks of one's own: a YAML that names data sets and metrics, or a Python file for the rest."""

import importlib.util
import sys
import traceback
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from pretrain.runtime.config import ConfigError, find_config, nearest, plain
from transfer.data.layout import data_root
from transfer.tasks import Task

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
    spec = importlib.util.spec_from_file_location(f"imported_{file.stem}", file)
    if spec is None:
        raise ConfigError(f"--import {path}: not a .py file")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = lines[-1] if lines else getattr(error, "lineno", "?")
        raise ConfigError(
            f"--import {path}, line {line}: {type(error).__name__}: {error}"
        ) from error


def register_datasets(cfg: CfgNode, source: str) -> None:
    """Make what ``TRANSFER.DATASETS`` names known to Detectron2, as COCO-format data sets.

    source: the config, for messages. Raises ConfigError for an entry that is not JSON and IMAGES,
    and for a name that another data set has.
    """
    for name, entry in cfg.TRANSFER.DATASETS.items():
        where, entry = f"{source}: TRANSFER.DATASETS.{name}", plain(entry)
        if not (isinstance(entry, dict) and entry.keys() == {"JSON", "IMAGES"}):
            raise ConfigError(f"{where}: expected {{JSON: file, IMAGES: folder}}, found {entry}")
        json_file, images = (
            str(data_root() / Path(entry[key]).expanduser()) for key in ("JSON", "IMAGES")
        )
        if name not in DatasetCatalog:
            register_coco_instances(name, {}, json_file, images)
        known = MetadataCatalog.get(name)
        if (known.get("json_file"), known.get("image_root")) != (json_file, images):
            raise ConfigError(f"{where}: another data set has that name; choose a different one")


def check_metrics(cfg: CfgNode, task: Task) -> Task:
    """The task with the metrics of ``TRANSFER.METRICS``; ``task`` itself where there are none.

    Raises ConfigError for metrics that an evaluation of COCO's would not give, and for those of a
    task that overrides have switched off: better now than after the training.
    """
    where, metrics = f"{task.config}: TRANSFER.METRICS", tuple(cfg.TRANSFER.METRICS)
    off = {group for group, switch in SWITCHES.items() if not cfg.MODEL[switch]}
    if not metrics:
        for metric in task.metrics:
            group = metric.partition("/")[0]
            if group in off:
                raise ConfigError(
                    f"MODEL.{SWITCHES[group]} False: the task reports {metric}. Without it, give a "
                    f"YAML of your own with _BASE_: {task.config} as --config-file"
                )
        return task
    if task.metrics:
        raise ConfigError(f"{where}: for configs of one's own; this one's task has its metrics")
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"{where}: a metric comes twice in {', '.join(metrics)}")
    if MetadataCatalog.get(cfg.DATASETS.TEST[0]).get("evaluator_type") == "coco":
        groups = {group: names for group, names in COCO_METRICS.items() if group not in off}
        known = [f"{group}/{name}" for group, names in groups.items() for name in names]
        for metric in metrics:
            if metric not in known:
                raise ConfigError(
                    f"{where}: this model gives no {metric}{nearest(metric, known)}; "
                    f"it gives {', '.join(known)}"
                )
    return Task(task.config, metrics, metrics[0])
