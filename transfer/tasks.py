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

DENSEPOSE = (
    *(f"densepose_gps/{name}" for name in ("AP", "AP50", "AP75")),
    "densepose_gpsm/AP",
)

LVIS_NAMES = ("AP", "AP50", "AP75", "APr", "APc", "APf")

TASKS: dict[str, Task] = {
    "coco_c4": Task(
        config="configs/transfer/coco/mask_rcnn_R_50_C4_1x.yaml",
        metrics=BOX_AND_MASK,
        main_metric="bbox/AP",
    ),
    "coco_c4_2x": Task(
        config="configs/transfer/coco/mask_rcnn_R_50_C4_2x.yaml",
        metrics=BOX_AND_MASK,
        main_metric="bbox/AP",
    ),
    "coco_fpn": Task(
        config="configs/transfer/coco/mask_rcnn_R_50_FPN_1x.yaml",
        metrics=BOX_AND_MASK,
        main_metric="bbox/AP",
    ),
    "lvis_fpn": Task(
        config="configs/transfer/lvis/mask_rcnn_R_50_FPN_1x.yaml",
        metrics=tuple(f"{group}/{name}" for group in ("bbox", "segm") for name in LVIS_NAMES),
        main_metric="bbox/AP",
    ),
    "cityscapes_fpn": Task(
        config="configs/transfer/cityscapes/mask_rcnn_R_50_FPN_24k.yaml",
        metrics=("segm/AP", "segm/AP50"),
        main_metric="segm/AP",
    ),
    "keypoints_fpn": Task(
        config="configs/transfer/coco/keypoint_rcnn_R_50_FPN_1x.yaml",
        metrics=tuple(f"keypoints/{name}" for name in ("AP", "AP50", "AP75", "APm", "APl")),
        main_metric="keypoints/AP",
    ),
    "densepose_fpn": Task(
        config="configs/transfer/densepose/densepose_rcnn_R_50_FPN_s1x.yaml",
        metrics=DENSEPOSE,
        main_metric="densepose_gps/AP",
    ),
    "densepose_fpn_legacy": Task(
        config="configs/transfer/densepose/densepose_rcnn_R_50_FPN_s1x_legacy.yaml",
        metrics=DENSEPOSE,
        main_metric="densepose_gps/AP",
    ),
    "voc_c4": Task(
        config="configs/transfer/voc/faster_rcnn_R_50_C4_24k.yaml",
        metrics=("bbox/AP", "bbox/AP50", "bbox/AP75"),
        main_metric="bbox/AP",
    ),
}


def get_task(name: str) -> Task:
    """The task of that name; ConfigError, with the nearest known name, for any other."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name}{nearest(name, TASKS)}; known: {', '.join(TASKS)}")
    return TASKS[name]
