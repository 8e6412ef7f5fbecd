"""The downstream tasks: one YAML and one entry here each; everything else walks TASKS."""

from dataclasses import dataclass

from pretrain.runtime.config import ConfigError, nearest


@dataclass(frozen=True)
class Task:
    """One downstream benchmark.

    config: YAML below the repository; metrics: those that its tables show, as ``bbox/AP50``;
    main_metric: the one that ranks.
    """

    config: str
    metrics: tuple[str, ...]
    main_metric: str


BOX_AND_MASK = ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75")

TASKS: dict[str, Task] = {
    "coco_c4": Task(
        config="configs/transfer/coco/mask_rcnn_R_50_C4_1x.yaml",
        metrics=BOX_AND_MASK,
        main_metric="bbox/AP",
    ),
    "coco_fpn": Task(
        config="configs/transfer/coco/mask_rcnn_R_50_FPN_1x.yaml",
        metrics=BOX_AND_MASK,
        main_metric="bbox/AP",
    ),
}


def get_task(name: str) -> Task:
    """The task of that name; ConfigError, with the nearest known name, for any other."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name}{nearest(name, TASKS)}; known: {', '.join(TASKS)}")
    return TASKS[name]
