"""What can be wrong with a data set of each layout, and what its check then says."""

import re
from dataclasses import replace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from pretrain.runtime.config import ConfigError
from tests.transfer.data.tiny_layouts import NAMES, WRITE, edit_json, registered, write_image
from transfer import data
from transfer.config import resolve
from transfer.data import DataError
from transfer.tasks import TASKS

LVIS = "lvis/lvis_v1_val.json"
CITIES = "cityscapes/leftImg8bit/val"
STEM = "bonn/bonn_000000_000019"
POLYGONS, INSTANCES = (
    f"cityscapes/gtFine/val/{STEM}_gtFine_{kind}" for kind in ("polygons.json", "instanceIds.png")
)
IMAGE = f"{CITIES}/{STEM}_leftImg8bit.png"


def remove(path):
    return lambda root: (root / path).unlink()


def move(path):
    return lambda root: (root / path).rename(root / "elsewhere")


def truncate(path):
    def cut(root):
        content = (root / path).read_bytes()
        (root / path).write_bytes(content[: len(content) // 2])

    return cut


def resize(path, size=(50, 30)):
    return lambda root: write_image(root / path, size)


def write(path, text):
    return lambda root: (root / path).write_text(text)


def rewrite(path, old, new):
    return lambda root: (root / path).write_text((root / path).read_text().replace(old, new))


def edit(path, change):
    return lambda root: edit_json(root / path, change)


def annotation(**changes):
    return lambda content: content["annotations"][1].update(changes)


def without(section, key):
    return lambda content: content[section][1].pop(key)


FAULTS = {
    "people": [
        (truncate("people.json"), ["people.json is not JSON"]),
        (write("people.json", "[]"), ["people.json holds a list, not a mapping"]),
        (edit("people.json", without("annotations", "bbox")), ["annotations[1] has no bbox"]),
        (remove("people/2.jpg"), ["people/2.jpg does not exist"]),
        (resize("people/2.jpg"), ["people/2.jpg has 50x30 pixels", "people.json says 48x32"]),
        (write("people/2.jpg", "?"), ["people/2.jpg is not a readable image"]),
        (edit("people.json", annotation(id=1)), ["people.json: two annotations have the id 1"]),
        (
            edit("people.json", annotation(image_id=7)),
            ["people.json: annotation 2 is of image 7, which is not listed"],
        ),
        (
            edit("people.json", annotation(category_id=91)),
            ["people.json: annotation 2 has category_id 91", "its 1 are 1 to 1"],
        ),
    ],
    "lvis": [
        (move("coco/val2017"), ["coco/val2017 does not exist"]),
        (edit(LVIS, lambda c: c["categories"].pop()), ["do not both have category 1203"]),
        (edit(LVIS, without("images", "neg_category_ids")), ["[1] has no neg_category_ids"]),
    ],
    "cityscapes": [
        (move("cityscapes/leftImg8bit"), ["leftImg8bit/val does not exist"]),
        (remove(POLYGONS), [f"{POLYGONS} does not exist"]),
        (remove(IMAGE), [f"{INSTANCES} has no image in leftImg8bit"]),
        (write(f"{CITIES}/.DS_Store", ""), [f"{CITIES}/.DS_Store is a file where only"]),
        (write(POLYGONS, "{}"), [f"{POLYGONS} has no imgWidth, imgHeight, objects"]),
        (rewrite(POLYGONS, "road", "raod"), [f"{POLYGONS}: the label raod is none"]),
        (resize(INSTANCES), [f"{INSTANCES} has 50x30 pixels", "polygons.json says 48x32"]),
    ],
    "voc": [
        (remove("VOC2007/ImageSets/Main/test.txt"), ["ImageSets/Main/test.txt does not exist"]),
        (write("VOC2007/ImageSets/Main/test.txt", ""), ["test.txt is empty"]),
        (
            write("VOC2007/ImageSets/Main/test.txt", "000001\n000001"),
            ["test.txt lists 000001 twice"],
        ),
        (remove("VOC2007/JPEGImages/000002.jpg"), ["JPEGImages/000002.jpg does not exist"]),
        (truncate("VOC2007/Annotations/000002.xml"), ["000002.xml is not XML"]),
        (rewrite("VOC2007/Annotations/000002.xml", "xmin", "left"), ["000002.xml lacks a size"]),
        (
            rewrite("VOC2007/Annotations/000002.xml", "dog", "dogg"),
            ["dogg is none", "(did you mean dog?)"],
        ),
        (resize("VOC2007/JPEGImages/000002.jpg"), ["has 50x30 pixels", "000002.xml says 48x32"]),
    ],
}


def checked(layout, root, spoil=None):
    """A data set of that layout, spoilt; Detectron2 knows it no longer."""
    WRITE[layout](root)
    if spoil is not None:
        spoil(root)
    with registered(layout, root) as name:
        return data.check(name)


@pytest.mark.parametrize("layout", WRITE)
def test_what_is_counted_is_what_detectron2_loads(layout, tmp_path):
    WRITE[layout](tmp_path)
    with registered(layout, tmp_path) as name:
        dataset = data.check(name)
        loaded = DatasetCatalog.get(name)
        assert list(dataset.classes) == MetadataCatalog.get(name).thing_classes
    objects = [one for image in loaded for one in image["annotations"]]
    assert (dataset.images, dataset.objects) == (len(loaded), len(objects)) == (2, 2)
    assert dataset.masks == all("segmentation" in one for one in objects)


@pytest.mark.parametrize(
    ("layout", "spoil", "parts"),
    [(layout, spoil, parts) for layout, faults in FAULTS.items() for spoil, parts in faults],
)
def test_what_is_wrong_is_named(layout, spoil, parts, tmp_path):
    with pytest.raises(DataError) as stopped:
        checked(layout, tmp_path, spoil)
    message = str(stopped.value)
    for part in (NAMES[layout], *parts):
        assert part in message
    # The variable matters where a file of an official data set is not there
    matters = layout != "people" and "does not exist" in message
    assert ("DETECTRON2_DATASETS" in message and "DATA.md" in message) == matters


@pytest.mark.parametrize("layout", WRITE)
def test_the_fingerprint_covers_every_label_file_and_not_the_place(layout, tmp_path):
    def fingerprint(folder):
        with registered(layout, tmp_path / folder) as name:
            return data.fingerprint([data.check(name)], [])["sha256"]

    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        WRITE[layout](tmp_path / folder)
    first = fingerprint("here")
    assert fingerprint("there") == first
    with registered(layout, tmp_path / "here") as name:
        files = data.check(name).annotations
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"\n")
        assert fingerprint("here") != first, file
        file.write_bytes(content)
    assert fingerprint("here") == first


def test_a_photograph_that_lies_on_its_side_has_the_size_of_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    image = Image.new("RGB", (32, 48))
    dataset = checked(
        "people", tmp_path, lambda _: image.save(tmp_path / "people" / "2.jpg", exif=exif)
    )
    assert dataset.images == 2


def test_keypoints_of_a_json_become_metadata(tmp_path):
    WRITE["people"](tmp_path)
    with registered("people", tmp_path) as name:
        assert data.check(name).keypoints == ("left_hand", "right_hand")
        metadata = MetadataCatalog.get(name)
        assert metadata.keypoint_names == ("left_hand", "right_hand")
        assert metadata.keypoint_flip_map == (("left_hand", "right_hand"),)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            edit("people.json", annotation(keypoints=[1, 1, 2])),
            "people.json: annotation 2 has 3 keypoint numbers, not 2 x 3",
        ),
        (
            rewrite("people.json", "right_hand", "right_foot"),
            "people.json: there is a keypoint left_hand, but no right_hand",
        ),
        (
            rewrite("people.json", '"keypoints": ["left', '"points": ["left'),
            "MODEL.KEYPOINT_ON False",
        ),
    ],
)
def test_keypoints_that_cannot_be_learnt_matter_to_a_network_that_would(spoil, message, tmp_path):
    dataset = checked("people", tmp_path, spoil)
    overrides = ["MODEL.ROI_HEADS.NUM_CLASSES", "1", "MODEL.MASK_ON", str(dataset.masks)]
    cfg = resolve(TASKS["coco_fpn"].config, overrides=overrides)
    data.check_config(cfg, [dataset])
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ConfigError, match=re.escape(message)):
        data.check_config(cfg, [dataset])


def test_training_and_test_data_of_different_keypoints_are_refused(tmp_path):
    dataset = checked("people", tmp_path)
    other = replace(dataset, name="other", keypoints=("left_foot", "right_foot"))
    cfg = resolve(TASKS["keypoints_fpn"].config)
    with pytest.raises(ConfigError, match="other have different keypoints"):
        data.check_config(cfg, [dataset, other])


def test_masks_that_are_no_polygons_need_another_format(tmp_path):
    runs = {"size": [32, 48], "counts": [330, 10, 1196]}
    dataset = checked("people", tmp_path, edit("people.json", annotation(segmentation=runs)))
    cfg = resolve(TASKS["coco_fpn"].config, overrides=["MODEL.ROI_HEADS.NUM_CLASSES", "1"])
    with pytest.raises(ConfigError, match=r"Add: INPUT.MASK_FORMAT bitmask$"):
        data.check_config(cfg, [dataset])


@pytest.mark.parametrize(
    ("layout", "overrides", "pairs"),
    [
        ("voc", [], "MODEL.ROI_HEADS.NUM_CLASSES 20 MODEL.MASK_ON False"),
        ("voc", ["MODEL.ROI_HEADS.NUM_CLASSES", "20", "MODEL.MASK_ON", "False"], None),
        (
            "people",
            ["MODEL.KEYPOINT_ON", "True"],
            "MODEL.ROI_HEADS.NUM_CLASSES 1 MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 2",
        ),
        (
            "lvis",
            ["MODEL.ROI_HEADS.NUM_CLASSES", "1203", "MODEL.KEYPOINT_ON", "True"],
            "MODEL.KEYPOINT_ON False",
        ),
    ],
)
def test_a_config_that_does_not_suit_the_data_stops_with_the_pairs_to_add(
    layout, overrides, pairs, tmp_path
):
    cfg = resolve(TASKS["coco_fpn"].config, overrides=overrides)
    dataset = checked(layout, tmp_path)
    if pairs is None:
        data.check_config(cfg, [dataset, dataset])
    else:
        with pytest.raises(ConfigError, match=f"Add: {pairs}$"):
            data.check_config(cfg, [dataset, dataset])
