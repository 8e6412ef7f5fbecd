"""What a data set must hold before anything is built, and the fingerprint of what it holds.

``CHECKS`` has one entry per layout, by the data set's ``evaluator_type`` in Detectron2's metadata.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from pretrain.runtime.config import ConfigError, nearest
from pretrain.runtime.files import DataError, sha256_of
from transfer.data import cityscapes, coco, densepose, lvis, pascal_voc
from transfer.data.layout import Dataset, MissingError, data_root
from transfer.densepose.annotations import POINT_KEYS
from transfer.densepose.mapper import read_flip_table

CHECKS: dict[str, Callable[[str], Dataset]] = {
    "coco": coco.check,
    "lvis": lvis.check,
    "cityscapes_instance": cityscapes.check,
    "pascal_voc": pascal_voc.check,
    "densepose": densepose.check,
}

LOADERS = {"coco": coco.load, "lvis": lvis.load}  # in place of Detectron2's

# Published image counts; DATA.md names the sources.
OFFICIAL_IMAGES = {
    "coco_2017_train": 118287,
    "coco_2017_val": 5000,
    "keypoints_coco_2017_train": 118287,
    "keypoints_coco_2017_val": 5000,
    "densepose_coco_2014_train": 26437,
    "densepose_coco_2014_valminusminival": 5984,
    "densepose_coco_2014_minival": 1508,
    "densepose_coco_2014_minival_100": 100,
    "lvis_v1_train": 100170,
    "lvis_v1_val": 19809,
    "cityscapes_fine_instance_seg_train": 2975,
    "cityscapes_fine_instance_seg_val": 500,
    "voc_2007_trainval": 5011,
    "voc_2007_test": 4952,
    "voc_2012_trainval": 11540,
}


def check(name: str) -> Dataset:
    """The data set of that registered name, after a look at its files.

    Detectron2's own loader, which would read it anew and unchecked, gives way to ours. Raises
    DataError naming the file at fault and, where that does not exist, DETECTRON2_DATASETS.
    """
    if name not in DatasetCatalog:
        known = DatasetCatalog.list()
        raise DataError(f"{name}: not a registered data set{nearest(name, known)}")
    layout = MetadataCatalog.get(name).get("evaluator_type")
    if layout not in CHECKS:
        raise DataError(
            f"{name}: evaluator_type {layout} cannot be checked; known: {', '.join(CHECKS)}. "
            "A file given with --import may add to transfer.data.CHECKS"
        )
    try:
        found = CHECKS[layout](name)
    except DataError as fault:
        way_out, root = "", str(data_root())
        if isinstance(fault, MissingError) and (name in OFFICIAL_IMAGES or root in str(fault)):
            way_out = (
                f". DETECTRON2_DATASETS names the folder that holds the data sets (now: {root}); "
                "DATA.md says what lies there, and `python -m benchmarks.scenes DIR` makes a small "
                "one"
            )
        raise DataError(f"{name}: {fault}{way_out}") from fault
    if layout in LOADERS and DatasetCatalog[name].__module__.startswith("detectron2."):
        DatasetCatalog.pop(name)
        DatasetCatalog.register(name, partial(LOADERS[layout], name))
    return found


def check_config(cfg: CfgNode, datasets: Sequence[Dataset]) -> None:
    """ConfigError, with the KEY VALUE pairs to add, where ``cfg`` does not suit its ``datasets``.

    All of them must have the same classes, as many as the network; masks, keypoints and DensePose
    where the network learns them; and a batch without any object must not stop it. DataError where
    the table that mirrors DensePose is missing.
    """
    first = datasets[0]
    for other in datasets[1:]:
        if other.classes != first.classes:
            differing = sorted(set(first.classes) ^ set(other.classes))[:5]
            names = ", ".join(differing) or "another order"
            raise ConfigError(f"{first.name} and {other.name} have different classes ({names})")
    pairs = {}
    if len(first.classes) != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        pairs["MODEL.ROI_HEADS.NUM_CLASSES"] = len(first.classes)
    if cfg.MODEL.MASK_ON:
        for dataset in datasets:
            if dataset.mask_fault:
                raise ConfigError(f"{dataset.mask_fault}. Mend them, or add: MODEL.MASK_ON False")
        if not all(dataset.masks for dataset in datasets):
            pairs["MODEL.MASK_ON"] = False
        if cfg.INPUT.MASK_FORMAT == "polygon" and any(dataset.bitmasks for dataset in datasets):
            pairs["INPUT.MASK_FORMAT"] = "bitmask"
    if cfg.MODEL.KEYPOINT_ON:
        for dataset in datasets:
            if dataset.keypoints_fault:
                raise ConfigError(dataset.keypoints_fault)
            if dataset.keypoints != first.keypoints:
                raise ConfigError(f"{first.name} and {dataset.name} have different keypoints")
        points = len(first.keypoints)
        if not points:
            pairs["MODEL.KEYPOINT_ON"] = False
        elif points != cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS:
            pairs["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"] = points
    if cfg.MODEL.DENSEPOSE_ON:
        for names in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST):
            if not any(dataset.densepose for dataset in datasets if dataset.name in names):
                raise ConfigError(
                    f"nobody in {', '.join(names)} has {', '.join(POINT_KEYS)}. "
                    "Add: MODEL.DENSEPOSE_ON False"
                )
        read_flip_table(cfg)
    if pairs:
        raise ConfigError(
            f"the config does not suit {first.name}: {len(first.classes)} classes, "
            f"{'masks' if first.masks else 'no masks'}, {len(first.keypoints)} keypoints. "
            f"Add: {' '.join(f'{key} {value}' for key, value in pairs.items())}"
        )


def describe(dataset: Dataset) -> str:
    """One line: counts, place, notes, and the published count where it differs."""
    official = OFFICIAL_IMAGES.get(dataset.name, dataset.images)
    note = "" if official == dataset.images else f" (the official set has {official})"
    return (
        f"{dataset.name}: {dataset.images} images{note}, {dataset.objects} objects, "
        f"{len(dataset.classes)} classes, {'; '.join([str(dataset.place), *dataset.notes])}"
    )


def fingerprint(train: Sequence[Dataset], test: Sequence[Dataset]) -> dict[str, Any]:
    """The ``data`` entry of metrics.json: tables never mix two of them."""
    used = [*train, *test]
    files = [file for dataset in used for file in dataset.annotations]
    lines = [f"{file.name} {sha256_of(file)}\n" for file in files]
    if (data_root() / "scenes.json").is_file():
        name = "scenes"
    elif all(OFFICIAL_IMAGES.get(dataset.name) == dataset.images for dataset in used):
        name = "official"
    else:
        name = "other"
    return {
        "name": name,
        "train_images": sum(dataset.images for dataset in train),
        "test_images": sum(dataset.images for dataset in test),
        # The same wherever and in whatever order the annotation files lie.
        "sha256": hashlib.sha256("".join(sorted(lines)).encode()).hexdigest(),
    }
