"""Pictures of a test set: the ground truth on the left, what the model predicts on the right."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, Metadata, MetadataCatalog
from detectron2.evaluation import inference_context
from detectron2.structures import BoxMode, Instances
from detectron2.utils.visualizer import VisImage, Visualizer
from matplotlib.colors import hsv_to_rgb
from PIL import Image
from torch import nn

from pretrain.runtime.files import write_atomically
from transfer.data.images import read_image
from transfer.data.stream import seeded
from transfer.densepose.annotations import MASK_SIDE, POINT_KEYS, has_points
from transfer.densepose.inference import labels_and_uv

MIN_SCORE = 0.5
PANEL_SIZE = 512  # px, longer side: smaller images are enlarged
GAP = 8  # px between two panels

# Neighbours on the circle of hues differ in brightness, as 7 is odd; background (0) is black.
CHART_COLORS = np.zeros((25, 3))
CHART_COLORS[1:] = [hsv_to_rgb((7 * i % 24 / 24, 0.9, (1.0, 0.55)[i % 2])) for i in range(24)]
ORDERED = matplotlib.colormaps["viridis"]  # what is below 0 or above 1 has the colour of the end

# Charts i (...) and coordinates u, v (...) to colours (..., 3) in [0, 1].
Paint = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
PAINTS: tuple[Paint, ...] = (
    lambda i, u, v: CHART_COLORS[i],
    lambda i, u, v: ORDERED(u)[..., :3],  # 0 blue, 1 yellow
    lambda i, u, v: ORDERED(v)[..., :3],
)


@torch.no_grad()
def visualize(cfg: CfgNode, model: nn.Module, count: int, folder: Path) -> int:
    """Write ``folder``/<image id>.png for ``count`` evenly spaced images of the test set.

    Returns how many were written: all of them, where the set has fewer.
    """
    name = cfg.DATASETS.TEST[0]
    records, read = DatasetCatalog.get(name), DatasetMapper(cfg, is_train=False)
    count = min(count, len(records))
    with inference_context(model):
        for number in range(count):
            record = records[number * len(records) // count]
            instances = in_float32(model([read(record)])[0]["instances"].to("cpu"))
            picture = draw(cfg, record, instances, MetadataCatalog.get(name))
            # Cityscapes' ids are file names.
            file = str(record["image_id"]).removesuffix(".png").replace("/", "_")
            save = functools.partial(Image.fromarray(picture).save, format="png")
            write_atomically(folder / f"{file}.png", save)
    return count


def in_float32(instances: Instances) -> Instances:
    """Half-precision fields, keypoints on a CPU's autocast among them, as numpy can take them."""
    fields = {
        name: value.float() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in instances.get_fields().items()
    }
    return Instances(instances.image_size, **fields)


def draw(
    cfg: CfgNode, record: dict[str, Any], instances: Instances, metadata: Metadata
) -> np.ndarray:
    """The picture (H, W, 3) uint8 RGB of an image: two panels; with DensePose two rows more."""
    image = read_image(record["file_name"], format="RGB")  # whatever INPUT.FORMAT is
    truth = ground_truth(cfg, record)
    shown = choose(instances)
    paints: tuple[Paint | None, ...] = (None,)
    if cfg.MODEL.DENSEPOSE_ON:  # all colours are the charts'
        image = image.mean(axis=2, keepdims=True).round().repeat(3, axis=2)
        charts, uv = charts_and_uv(shown, image.shape[:2])
        paints = PAINTS
    rows = []
    for paint in paints:
        painted = image
        if paint is not None:
            painted = np.where(charts[..., None] > 0, (255 * paint(charts, *uv)).round(), image)
        left, right = Panel(image, metadata), Panel(painted, metadata)
        with seeded(0):  # Visualizer draws its colours at random: the same ones in every picture
            left.draw_dataset_dict(truth)
            right.draw_instance_predictions(shown)
        if paint is not None:
            draw_points(left, truth, paint)
        sides = [panel.output.get_image() for panel in (left, right)]
        gap = np.full((len(sides[0]), GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([sides[0], gap, sides[1]], axis=1))
    return np.concatenate(rows)


class Panel(Visualizer):
    """Detectron2's, which enlarges small images here; but not the dots on them."""

    def __init__(self, image: np.ndarray, metadata: Metadata) -> None:
        super().__init__(image, metadata, scale=max(1.0, PANEL_SIZE / max(image.shape[:2])))

    def draw_circle(
        self, circle_coord: tuple[float, float], color: Any, radius: float = 3
    ) -> VisImage:
        """See ``Visualizer``; radius: in px of the panel."""
        return super().draw_circle(circle_coord, color, radius / self.output.scale)


def ground_truth(cfg: CfgNode, record: dict[str, Any]) -> dict[str, Any]:
    """A record's annotations, each with masks and keypoints if, and only if, the model has them.

    Visualizer wants them in all annotations or in none.
    """
    empty: dict[str, list] = {}
    if cfg.MODEL.MASK_ON:
        empty["segmentation"] = []
    if cfg.MODEL.KEYPOINT_ON:
        empty["keypoints"] = [0, 0, 0] * cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    annotations = []
    for given in record.get("annotations", []):
        kept = {key: given[key] for key in given.keys() - {"segmentation", "keypoints"}}
        annotations.append(kept | {key: given.get(key) or empty[key] for key in empty})
    return {"annotations": annotations}


def choose(instances: Instances) -> Instances:
    """The detections to draw: the good ones, or else the best."""
    best = max(instances.scores.tolist(), default=0)
    return instances[instances.scores >= min(MIN_SCORE, best)]


def charts_and_uv(instances: Instances, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Chart (H, W) and U, V (2, H, W) of an image's pixels, 0 where there is no person.

    The better of two detections that overlap lies on top.
    """
    charts, uv = np.zeros(size, dtype=int), np.zeros((2, *size))
    if not instances.has("pred_densepose"):  # as where a whole batch has no detection
        return charts, uv
    for number in instances.scores.argsort().tolist():
        box = instances.pred_boxes.tensor[number]
        labels, coordinates = map(np.asarray, labels_and_uv(instances.pred_densepose[number], box))
        x, y = box[:2].int().tolist()
        window = np.s_[..., y : y + labels.shape[0], x : x + labels.shape[1]]
        np.copyto(charts[window], labels, where=labels > 0)
        np.copyto(uv[window], coordinates, where=labels > 0)
    return charts, uv


def draw_points(panel: Panel, truth: dict[str, Any], paint: Paint) -> None:
    """The annotated points of all persons as dots."""
    for annotation in filter(has_points, truth["annotations"]):
        left, top, width, height = BoxMode.convert(
            annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS
        )
        x, y, i, u, v = (np.array(annotation[key], dtype=float) for key in POINT_KEYS)
        x, y = left + x * width / MASK_SIDE, top + y * height / MASK_SIDE
        colors = paint(i.astype(int), u, v)
        for number in i.nonzero()[0]:
            panel.draw_circle((x[number], y[number]), colors[number], radius=2)
