"""The downstream tasks: one YAML and one entry here each; everything else walks TASKS."""

from dataclasses import dataclass

from pretrain.runtime.config import ConfigError, nearest


@dataclass(frozen=True)
class Task:
    """One downstream benchmark.

    config: YAML below the repository; metrics: those that its tables show, as ``bbox/AP50``;
    main_metric: the one that ranks. A config of one's own may leave these two open: all that an
    evaluation gives, ranked by the first AP.
    """

    config: str
    metrics: tuple[str, ...] = ()
    main_metric: str = ""


BOX = ("bbox/AP", "bbox/AP50", "bbox/AP75")
MASK = ("segm/AP", "segm/AP50", "segm/AP75")
LVIS_NAMES = ("AP", "AP50", "AP75", "APr", "APc", "APf")
LVIS = tuple(f"{group}/{name}" for group in ("bbox", "segm") for name in LVIS_NAMES)
KEYPOINTS = tuple(f"keypoints/{name}" for name in ("AP", "AP50", "AP75", "APm", "APl"))
DENSEPOSE = tuple(f"densepose_{name}" for name in ("gps/AP", "gps/AP50", "gps/AP75", "gpsm/AP"))

TASKS: dict[str, Task] = {
    "coco_c4": Task("configs/transfer/coco/mask_rcnn_R_50_C4_1x.yaml", BOX + MASK, "bbox/AP"),
    "coco_c4_2x": Task("configs/transfer/coco/mask_rcnn_R_50_C4_2x.yaml", BOX + MASK, "bbox/AP"),
    "coco_fpn": Task("configs/transfer/coco/mask_rcnn_R_50_FPN_1x.yaml", BOX + MASK, "bbox/AP"),
    "lvis_fpn": Task("configs/transfer/lvis/mask_rcnn_R_50_FPN_1x.yaml", LVIS, "bbox/AP"),
    "cityscapes_fpn": Task(
        "configs/transfer/cityscapes/mask_rcnn_R_50_FPN_24k.yaml",
        ("segm/AP", "segm/AP50"),
        "segm/AP",
    ),
    "keypoints_fpn": Task(
        "configs/transfer/coco/keypoint_rcnn_R_50_FPN_1x.yaml", KEYPOINTS, "keypoints/AP"
    ),
    "densepose_fpn": Task(
        "configs/transfer/densepose/densepose_rcnn_R_50_FPN_s1x.yaml",
        DENSEPOSE,
        "densepose_gps/AP",
    ),
    "densepose_fpn_legacy": Task(
        "configs/transfer/densepose/densepose_rcnn_R_50_FPN_s1x_legacy.yaml",
        DENSEPOSE,
        "densepose_gps/AP",
    ),
    "voc_c4": Task("configs/transfer/voc/faster_rcnn_R_50_C4_24k.yaml", BOX, "bbox/AP"),
}


def get_task(name: str) -> Task:
    """The task of that name; ConfigError, with the nearest known name, for any other."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name}{nearest(name, TASKS)}; known: {', '.join(TASKS)}")
    return TASKS[name]
