"""The mapper against upstream's, and what it refuses."""

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from pretrain.runtime.config import ConfigError
from tests.transfer.densepose.cases import (
    MINIVAL,
    POINTS,
    load_json,
    person,
    registered_at,
    write_data,
    write_table,
)
from transfer.config import default_config
from transfer.data.densepose import load
from transfer.data.layout import DataError
from transfer.densepose.annotations import Annotation
from transfer.densepose.flip import FlipTable
from transfer.densepose.mapper import DensePoseMapper

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = load_json("mapper")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return FlipTable.read(write_table(tmp_path_factory.mktemp("flip") / "table.mat"))


@pytest.fixture
def cfg():
    cfg = default_config()
    cfg.MODEL.DENSEPOSE_ON = True
    cfg.DATASETS.TRAIN = (MINIVAL,)
    return cfg


@pytest.fixture
def root(tmp_path):
    with registered_at(tmp_path):
        yield tmp_path


def mapper(table, *augmentations, is_train=True):
    return DensePoseMapper(
        is_train, augmentations=augmentations, image_format="BGR", flip_table=table
    )


def record(folder, number):
    """A golden one, with its image below ``folder``."""
    golden = GOLDEN["records"][number]
    file = folder / golden["file_name"]
    Image.fromarray(np.array(GOLDEN["image_rgb"], dtype=np.uint8)).save(file)
    return golden | {"file_name": str(file)}


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_a_mapped_record_is_upstreams(case, table, tmp_path):
    flip = [T.RandomFlip(prob=float(case["flip"]))]
    mapped = mapper(table, T.ResizeShortestEdge(64, 133), *flip)(record(tmp_path, case["record"]))
    assert mapped["image"].dtype == torch.float32
    assert list(mapped["image"].shape) == case["image_shape"]
    assert mapped["image"].sum().item() == pytest.approx(case["image_checksum"], rel=0.01)
    instances = mapped["instances"]
    assert list(instances.image_size) == case["image_size"]
    assert sorted(instances.get_fields()) == case["fields"]
    boxes = np.array(case["gt_boxes"])
    np.testing.assert_allclose(instances.gt_boxes.tensor, boxes, rtol=0, atol=1e-3)
    assert instances.gt_classes.tolist() == case["gt_classes"]
    assert instances.has("gt_densepose") == case["has_densepose"]
    if case["has_densepose"]:
        found = instances.gt_densepose
        assert len(found) == len(boxes)
        for entry, expected in zip(found, case["densepose"], strict=True):
            compare(entry, expected)


def compare(entry, expected):
    assert (entry is None) == (expected is None)
    if entry is None:
        return
    for name in POINTS:
        np.testing.assert_array_equal(getattr(entry, name), np.float32(expected[name]))
    assert (entry.segm is None) == (expected["segm_sum"] is None)
    if entry.segm is not None:
        assert entry.segm.sum() == expected["segm_sum"]
        assert entry.segm.sum(1)[::16].tolist() == expected["segm_rowsum"]
        assert entry.segm.sum(0)[::16].tolist() == expected["segm_colsum"]


def test_an_empty_box_goes_with_its_annotation(table, root):
    people = [person(1, bbox=[60, 10, 20, 16]), person(2, dp_U=[0.5, 0.5, 0.5])]
    write_data(root, MINIVAL, people)  # the first is beyond the right edge
    mapped = mapper(table)(load(MINIVAL)[0])["instances"]
    assert len(mapped) == len(mapped.gt_densepose) == 1
    assert mapped.gt_densepose[0].u.tolist() == [0.5, 0.5, 0.5]


def test_in_a_test_there_are_no_annotations_and_no_table(cfg, root):
    write_data(root, MINIVAL, [person(1)])
    built = DensePoseMapper(cfg, is_train=False)
    assert built.flip_table is None
    mapped = built(load(MINIVAL)[0])
    assert [type(a).__name__ for a in built.augmentations.augs] == ["ResizeShortestEdge"]
    keys = {"file_name", "height", "width", "image_id", "image"}
    assert mapped.keys() == keys == set(GOLDEN["test_mode"]["keys"])
    assert mapped["image"].shape == (3, 800, 1200)


def test_training_flips_with_the_table_of_its_data_set(cfg, root):
    write_table(root / "densepose" / "UV_symmetry_transforms.mat")
    write_data(root, MINIVAL, [person(1)])
    built = DensePoseMapper(cfg, is_train=True)
    names = [type(a).__name__ for a in built.augmentations.augs]
    assert names == ["ResizeShortestEdge", "RandomFlip"]
    plain = Annotation.from_coco(person(1))
    flipped, found = plain.flipped(built.flip_table), set()
    for _ in range(40):
        entry = built(load(MINIVAL)[0])["instances"].gt_densepose[0]
        assert any(torch.equal(entry.u, other.u) for other in (plain, flipped))
        found.add(entry.x[0].item())
    assert found == {10.5, 245.5}


def test_the_table_is_asked_for_only_where_an_image_may_be_flipped(cfg, root):
    with pytest.raises(DataError, match=r"symmetry_transforms\.mat does not exist.*RANDOM_FLIP"):
        DensePoseMapper(cfg, is_train=True)
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(DataError, match=r"coco_2017_train: no densepose_transform_src"):
        DensePoseMapper(cfg, is_train=True)
    cfg.INPUT.RANDOM_FLIP = "none"
    assert DensePoseMapper(cfg, is_train=True).flip_table is None


@pytest.mark.parametrize(
    ("key", "value", "pair"),
    [
        ("INPUT.RANDOM_FLIP", "vertical", "INPUT.RANDOM_FLIP horizontal"),
        ("INPUT.ROTATION_ANGLES", [-10, 10], "INPUT.ROTATION_ANGLES [0]"),
        ("INPUT.CROP.ENABLED", True, "INPUT.CROP.ENABLED False"),
    ],
)
def test_what_annotations_cannot_follow_is_refused_with_the_pair_to_add(key, value, pair, cfg):
    cfg.merge_from_list([key, value])
    with pytest.raises(ConfigError) as stopped:
        DensePoseMapper(cfg, is_train=True)
    assert str(stopped.value).startswith(key)
    assert str(stopped.value).endswith(f"Add: {pair}")
    DensePoseMapper(cfg, is_train=False)
