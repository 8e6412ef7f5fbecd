"""From a data set's record to what the network reads, as upstream's dataset_mapper.py.

Upstream rotates images, too, which is right for boxes as large as the image only: left out here.
"""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T

from pretrain.runtime.files import DataError
from transfer.densepose.annotations import Annotation, Annotations, has_points
from transfer.densepose.config import check_augmentations
from transfer.densepose.flip import FlipTable


class DensePoseMapper(DatasetMapper):
    """Detectron2's, with ``gt_densepose`` (``Annotations``) where a person of an image has it.

    Persons without DensePose stay, as boxes. Images are (3, H, W) float32.
    """

    @configurable
    def __init__(self, is_train: bool, *, flip_table: FlipTable | None, **arguments: Any) -> None:
        super().__init__(is_train, **arguments)
        self.flip_table = flip_table

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """DatasetMapper's arguments, and in training the table that flips need.

        Raises ConfigError for augmentations that the annotations cannot follow, and DataError for a
        table that cannot be read.
        """
        table = None
        if is_train:
            check_augmentations(cfg)
            table = read_flip_table(cfg)
        return super().from_config(cfg, is_train) | {"flip_table": table}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """See DatasetMapper."""
        mapped = super().__call__(dataset_dict)
        mapped["image"] = mapped["image"].float()
        return mapped

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: T.TransformList, image_shape: tuple
    ) -> None:
        people = [p for p in dataset_dict.pop("annotations") if not p.get("iscrowd", 0)]
        entries = [Annotation.from_coco(p) if has_points(p) else None for p in people]
        if sum(isinstance(t, T.HFlipTransform) for t in transforms.transforms) % 2:
            entries = [entry and entry.flipped(self.flip_table) for entry in entries]
        for person in people:
            if not self.use_instance_mask:
                person.pop("segmentation", None)
            if not self.use_keypoint:
                person.pop("keypoints", None)
            utils.transform_instance_annotations(
                person,
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
        instances = utils.annotations_to_instances(people, image_shape, self.instance_mask_format)
        if any(entries):
            instances.gt_densepose = Annotations(entries)
        dataset_dict["instances"] = utils.filter_empty_instances(instances)


def read_flip_table(cfg: CfgNode) -> FlipTable | None:
    """The first ``densepose_transform_src`` of the training sets; None without flips."""
    if cfg.INPUT.RANDOM_FLIP == "none":
        return None
    names = cfg.DATASETS.TRAIN
    tables = [MetadataCatalog.get(name).get("densepose_transform_src") for name in names]
    if not any(tables):
        raise DataError(f"{', '.join(names)}: no densepose_transform_src in their metadata")
    return FlipTable.read(next(filter(None, tables)))
