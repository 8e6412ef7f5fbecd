"""A COCO-format data set of a few noisy 64 px images, and converted weights, for tests."""

import json
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import build_resnet_backbone
from PIL import Image

from transfer.config import resolve
from transfer.data import densepose
from transfer.tasks import TASKS

SIZE = 64
SPLITS = {"coco_2017_train": ("train2017", 6), "coco_2017_val": ("val2017", 3)}
SCENES = "configs/transfer/Base-scenes.yaml"

# Laid over the scenes overlay: two iterations, and next to nothing in each.
FAST = [
    *("INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "5"),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "4", "TEST.DETECTIONS_PER_IMAGE", "3"),
    *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "(1,)", "TEST.PRECISE_BN.NUM_ITER", "1"),
]


def write_coco(root):
    """Train and val in the official layout below ``root``: two rectangles an image."""
    random = np.random.default_rng(0)
    metadata = MetadataCatalog.get("coco_2017_val")
    ids = metadata.thing_dataset_id_to_contiguous_id
    categories = [{"id": key, "name": metadata.thing_classes[value]} for key, value in ids.items()]
    for folder, count in SPLITS.values():
        images, annotations = [], []
        (root / "coco" / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            pixels = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            for left in (4, 34):
                top, size = int(random.integers(4, 30)), int(random.integers(12, 26))
                box = (left, top, left + size, top + size)
                pixels[box[1] : box[3], box[0] : box[2]] = random.integers(0, 256, 3)
                annotations.append(_annotation(len(annotations) + 1, number, box))
            name = f"{number:012d}.jpg"
            Image.fromarray(pixels).save(root / "coco" / folder / name)
            images.append({"id": number, "file_name": name, "height": SIZE, "width": SIZE})
        content = {"images": images, "annotations": annotations, "categories": categories}
        file = root / "coco" / "annotations" / f"instances_{folder}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def _annotation(number, image, box):
    x0, y0, x1, y1 = box
    return {
        "id": number,
        "image_id": image,
        "category_id": 1 + number % 3,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
        "iscrowd": 0,
    }


@contextmanager
def data_sets_at(root):
    """Detectron2's own data sets read below ``root`` instead of where they did."""
    earlier = [(catalog, dict(catalog)) for catalog in (DatasetCatalog, MetadataCatalog)]
    for catalog, _ in earlier:
        catalog.clear()
    for register in ("coco", "lvis", "cityscapes", "pascal_voc"):
        getattr(builtin, f"register_all_{register}")(str(root))
    densepose.register(root)
    try:
        yield
    finally:
        for catalog, entries in earlier:
            catalog.clear()
            catalog.update(entries)


def trunk_overrides(depth):
    """The pairs of a ResNet of ``depth`` layers."""
    width = "64" if depth < 50 else "256"
    return ["MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.RES2_OUT_CHANNELS", width]


def converted(depth=50):
    """What a converted file holds, with seeded random weights; of an R50, 318 short names."""
    torch.manual_seed(0)
    cfg = resolve(TASKS["coco_fpn"].config, overrides=trunk_overrides(depth))
    trunk = build_resnet_backbone(cfg, ShapeSpec(channels=3)).state_dict()
    needs = {
        "INPUT.FORMAT": "RGB",
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
    }
    return {
        "format": 1,
        "model": {name: value.clone() for name, value in trunk.items()},
        "matching_heuristics": True,
        "__author__": "tests",
        "meta": {"method": "clove", "pretrain_epochs": 400.0, "depth": depth, "config": needs},
    }
