"""What can be wrong with a data set of each layout, and what its check then says."""

import math
import re
from dataclasses import replace

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.lvis import load_lvis_json
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


def image(**changes):
    return lambda content: content["images"][1].update(changes)


def category(**changes):
    return lambda content: content["categories"][0].update(changes)


def every(**changes):
    return lambda content: [one.update(changes) for one in content["annotations"]]


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
        (edit("people.json", image(file_name="a\\2.jpg")), ["people/2.jpg does: folders need /"]),
        (edit("people.json", image(file_name="people/2.jpg")), ["people/2.jpg does: a folder too"]),
        (edit("people.json", image(file_name="2.JPG")), ["people/2.jpg does: the name has other"]),
        (
            lambda root: (
                (root / "people" / "2.jpg").rename(root / "people" / "e\u0301.jpg"),
                edit_json(root / "people.json", image(file_name="\u00e9.jpg")),
            ),
            ["does: the name has another Unicode form of the same letters"],
        ),
        *(
            (edit("people.json", change), ["people.json", *parts])
            for change, parts in [
                (image(id=None), ["images[1] has the id None"]),
                (image(id=[2]), ["images[1] has the id [2]"]),
                (image(file_name=None), ["image 2 has the file_name None"]),
                (image(file_name=2), ["image 2 has the file_name 2"]),
                (without("images", "file_name"), ["image 2 has no file_name"]),
                (image(width="48"), ["image 2 has the width '48'"]),
                (image(height=31.5), ["image 2 has the height 31.5"]),
                (image(height=0), ["image 2 has the height 0"]),
                (image(height=math.inf), ["image 2 has the height inf"]),
                (category(name=7), ["category 1 has the name 7"]),
                (category(id=True), ["categories[0] has the id True"]),
                (annotation(image_id="2"), ["of image '2', which is not", "but 2 is: text and"]),
                (annotation(image_id=None), ["annotation 2 is of image None"]),
                (annotation(image_id=[2]), ["annotation 2 is of image [2]"]),
                (annotation(category_id="1"), ["category_id '1', which", "but 1 is: text and"]),
                (annotation(id="b", category_id=3), ["annotation 'b' has category_id 3"]),
                (annotation(id=None, category_id=3), ["annotations[1] has category_id 3"]),
                (annotation(id=[]), ["annotations[1] has the id []"]),
                (annotation(bbox=[math.nan, 1, 2, 3]), ["annotation 2 has the bbox [nan"]),
                (annotation(bbox=["1", "2", "3", "4"]), ["annotation 2 has the bbox"]),
                (annotation(bbox=[1, 2, 3]), ["annotation 2 has the bbox [1, 2, 3]"]),
                (annotation(bbox=[]), ["annotation 2 has the bbox []"]),
                (annotation(bbox=None), ["annotation 2 has the bbox None"]),
                (annotation(bbox=[20, 20, -10, 10]), ["annotation 2 has the bbox"]),
                (annotation(bbox=[20, 20, 0, 10]), ["annotation 2 has the bbox", "1 of 2 boxes"]),
                (annotation(bbox=[50, 20, 5, 5]), ["annotation 2 has the bbox", "1 of 2 boxes"]),
                (every(bbox=[0.2, 0.3, 0.4, 0.4]), ["2 of 2 boxes", "shares of the image?"]),
                (every(bbox=[25, 12, 44, 30]), ["2 of 2 boxes reach beyond", "two corners?"]),
                *(
                    (annotation(area=area), ["annotation 2 has the area"])
                    for area in (None, "100", -1, math.nan, math.inf, 1e11)
                ),
                *(
                    (annotation(iscrowd=crowd), ["annotation 2 has iscrowd"])
                    for crowd in ("0", "no", 2, [])
                ),
                (annotation(ignore=1), ["annotation 2 has ignore set"]),
                (every(iscrowd=1), ["iscrowd is 1 in all annotations"]),
            ]
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


def understood(content):
    """A file as other tools write it: the same objects, in other words."""
    for one in content["images"]:
        one |= {"id": f"img_{one['id']}", "width": float(one["width"])}
    for one in content["annotations"]:
        one |= {"image_id": f"img_{one['image_id']}", "category_id": 2**70, "iscrowd": None}
    content["annotations"][0]["id"] = "first"
    del content["annotations"][1]["id"]
    content["categories"][0]["id"] = 2**70


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_ids_are_names_and_files_may_come_from_elsewhere(encoding, tmp_path):
    WRITE["people"](tmp_path)
    with registered("people", tmp_path) as name:
        data.check(name)
        expected = DatasetCatalog.get(name)
    file = tmp_path / "people.json"
    edit_json(file, understood)
    file.write_bytes(file.read_text().encode(encoding))
    with registered("people", tmp_path) as name:
        dataset = data.check(name)
        found = DatasetCatalog.get(name)
    assert (dataset.images, dataset.objects, dataset.keypoints_fault) == (2, 2, "")
    assert [one.pop("image_id") for one in found] == ["img_1", "img_2"]
    assert [one.pop("image_id") for one in expected] == [1, 2]
    assert found == expected


def test_a_few_boxes_that_cannot_be_seen_are_counted_and_said(tmp_path):
    def change(content):
        many = [content["annotations"][0] | {"id": 10 + n} for n in range(1000)]
        content["annotations"][1]["bbox"] = [20, 20, 5, 0]
        content["annotations"] += many

    dataset = checked("people", tmp_path, edit("people.json", change))
    assert "1 of 1002 boxes have nothing in their images" in dataset.notes[0]
    assert "annotation 2 has the bbox [20, 20, 5, 0]" in data.describe(dataset)


def test_boxes_that_reach_beyond_their_images_are_counted_and_said(tmp_path):
    dataset = checked("people", tmp_path, edit("people.json", annotation(bbox=[-5, 20, 20, 9])))
    assert "1 of 2 boxes reach beyond their images" in data.describe(dataset)


@pytest.mark.parametrize("layout", ["people", "lvis"])
def test_records_are_detectron2s(layout, tmp_path):
    WRITE[layout](tmp_path)
    with registered(layout, tmp_path) as name:
        metadata = MetadataCatalog.get(name)
        load = load_coco_json if layout == "people" else load_lvis_json
        data.check(name)
        expected = load(metadata.json_file, metadata.image_root, name)
        assert DatasetCatalog.get(name) == expected


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
            edit("people.json", annotation(num_keypoints=1)),
            "annotation 2 has num_keypoints 1, but 2 keypoints with a visibility above 0",
        ),
        (edit("people.json", annotation(keypoints=[1, 1, 2, 3, 3, 9])), "has the visibilities"),
        (edit("people.json", annotation(keypoints=["1"] * 6)), "has the keypoints"),
        (
            edit("people.json", every(keypoints=[0] * 6, num_keypoints=0)),
            "no object has a labelled keypoint",
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


@pytest.mark.parametrize("label", [None, [], [[1, 1, 5, 5]], [[math.nan, 1, 5, 1, 5, 5]]])
def test_one_object_without_a_mask_is_named_where_masks_are_learnt(label, tmp_path):
    dataset = checked("people", tmp_path, edit("people.json", annotation(segmentation=label)))
    cfg = resolve(TASKS["coco_fpn"].config, overrides=["MODEL.ROI_HEADS.NUM_CLASSES", "1"])
    with pytest.raises(ConfigError) as stopped:
        data.check_config(cfg, [dataset])
    for part in ("people.json: annotation 2: ", "1 of 2", "or add: MODEL.MASK_ON False"):
        assert part in str(stopped.value)
    cfg.MODEL.MASK_ON = False
    data.check_config(cfg, [dataset])


def test_without_any_mask_the_mask_head_goes(tmp_path):
    dataset = checked("people", tmp_path, edit("people.json", every(segmentation=[])))
    cfg = resolve(TASKS["coco_fpn"].config, overrides=["MODEL.ROI_HEADS.NUM_CLASSES", "1"])
    with pytest.raises(ConfigError, match=r"no masks, .*Add: MODEL.MASK_ON False$"):
        data.check_config(cfg, [dataset])


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


def test_keys_that_nothing_reads_may_hold_anything(tmp_path):
    def spoil(content):
        for image in content["images"]:
            image.update(coco_url="", name=None)

    assert checked("people", tmp_path, edit("people.json", spoil)).images == 2


@pytest.mark.parametrize("area", [0, 1e6])
def test_areas_that_contradict_their_boxes_are_refused(tmp_path, area):
    with pytest.raises(DataError, match=f"has the area {area} and the bbox"):
        checked("people", tmp_path, edit("people.json", annotation(area=area)))


def test_names_that_no_file_can_have_are_refused(tmp_path):
    def spoil(content):
        content["images"][0]["file_name"] = "data:image/png;base64," + 5000 * "A"

    with pytest.raises(DataError, match="is no file's name"):
        checked("people", tmp_path, edit("people.json", spoil))
