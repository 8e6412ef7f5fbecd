"""Which keypoints change places in a mirrored image, by their names or by a map."""

import re
from pathlib import Path

import pytest
from detectron2.data import MetadataCatalog

from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import DataError
from tests.transfer.data.tiny_layouts import edit_json, registered, write_people
from transfer import data, own
from transfer.config import default_config
from transfer.data.keypoints import flip_map

FILE = Path("people.json")
NAME = "tiny_people"


@pytest.mark.parametrize(
    "pair",
    [
        *(("left_eye", "right_eye"), ("Left_Eye", "Right_Eye"), ("LEFT_EYE", "RIGHT_EYE")),
        *(("leftEye", "rightEye"), ("left-eye", "right-eye"), ("left eye", "right eye")),
        *(("eye_left", "eye_right"), ("lefteye", "righteye"), ("EyeLeft", "EyeRight")),
        *(("l_eye", "r_eye"), ("eye_l", "eye_r"), ("L-Eye", "R-Eye"), ("eye.L", "eye.R")),
        *(("lEye", "rEye"), ("LEye", "REye"), ("eyeL", "eyeR"), ("leye", "reye"), ("l1", "r1")),
    ],
)
def test_sides_are_understood_however_they_are_spelt(pair):
    names = ("nose", *pair, "tail", "lower_lip", "Collar")
    assert flip_map(FILE, names) == (pair,)


@pytest.mark.parametrize("names", [("left_eye", "rightEye"), ("nose", "eye_l"), ("Left",)])
def test_a_side_without_the_other_asks_for_a_flip_map(names):
    with pytest.raises(DataError, match=r"people.json: there is a keypoint .*FLIP_MAP: \[\["):
        flip_map(FILE, names)


def own_task(root, flips):
    """A config that names the keypoints that change places."""
    cfg = default_config()
    entry = {"JSON": str(root / "people.json"), "IMAGES": str(root / "people"), "FLIP_MAP": flips}
    cfg.TRANSFER.DATASETS[NAME] = entry
    return cfg


def rename(content):
    content["categories"][0]["keypoints"] = ["linke_hand", "rechte_hand"]


@pytest.mark.parametrize("pair", [["linke_hand", "rechte_hand"], ["linke_hand", "linker_fuss"]])
def test_a_flip_map_of_ones_own_counts_where_it_names_keypoints(pair, tmp_path):
    write_people(tmp_path)
    edit_json(tmp_path / "people.json", rename)
    with registered("people", tmp_path):
        own.register_datasets(own_task(tmp_path, [pair]), "my.yaml")
        found = data.check(NAME)
        assert MetadataCatalog.get(NAME).keypoint_flip_map == (tuple(pair),)
    assert found.keypoints_fault.endswith("which is none of its keypoints") == ("fuss" in pair[1])


@pytest.mark.parametrize("names", [("left_hand", "right_hand"), ("linke_hand", "rechte_hand")])
def test_it_is_said_where_no_keypoints_change_places(names, tmp_path):
    write_people(tmp_path)
    edit_json(
        tmp_path / "people.json",
        lambda content: content["categories"][0].update(keypoints=list(names)),
    )
    with registered("people", tmp_path):
        said = data.describe(data.check(NAME))
    assert ("no keypoints change places" in said) == ("linke_hand" in names)


@pytest.mark.parametrize("flips", [3, "left", [["left"]], [["a", "b", "c"]]])
def test_a_flip_map_that_is_none_is_said(flips, tmp_path):
    write_people(tmp_path)
    said = re.escape("FLIP_MAP is not [[one, other], ...]")
    with registered("people", tmp_path), pytest.raises(ConfigError, match=said):
        own.register_datasets(own_task(tmp_path, flips), "my.yaml")
