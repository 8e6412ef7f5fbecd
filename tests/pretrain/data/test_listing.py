"""Which files are images: each one once, and what is left out is said."""

import io
import os
import tarfile

import pytest

from pretrain.data.__main__ import main
from pretrain.data.folder import DataError, Folder, list_images
from pretrain.data.shards import open_images
from tests.pretrain.tiny import write_images


def remark(root):
    return open_images(root).remark


def write_tar(path, members):
    """members: name and content of each."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path.read_bytes()


def test_links_neither_loop_nor_list_an_image_twice(tmp_path):
    root = write_images(tmp_path / "images", 4)  # 0.png, 2.png, nested/1.png, nested/3.png
    write_images(tmp_path / "elsewhere", 1)
    (root / "other").mkdir()
    for link, target in {
        "nested/up": "..",
        "nested/other": "../other",
        "other/nested": "../nested",
        "itself": "itself",
        "again.png": "2.png",
        "a_link": tmp_path / "elsewhere",
        "b_link": tmp_path / "elsewhere",
        "outside.png": tmp_path / "elsewhere/0.png",
    }.items():
        (root / link).symlink_to(target)
    assert list_images(root) == ["0.png", "2.png", "a_link/0.png", "nested/1.png", "nested/3.png"]


def test_an_image_that_only_a_link_leads_to_is_listed(tmp_path):
    write_images(tmp_path / "store", 1)
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "images" / name).symlink_to("../store/0.png")
    assert list_images(tmp_path / "images") == ["a.png"]


def test_what_systems_leave_beside_images_is_left_out_and_counted(tmp_path):
    root = write_images(tmp_path / "images", 2)
    for name in (
        "._0.png",
        ".DS_Store",
        ".ipynb_checkpoints/0.png",
        "@eaDir/0.png",
        ".cache/0.png",
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"none")
    assert len(Folder(root)) == 2
    assert remark(root) == "left out: 5 hidden"


def test_endings_that_are_left_out_are_named(tmp_path, capfd):
    root = write_images(tmp_path / "images", 1)
    for name in ("a.JFIF", "b.gif", "c.avif", "d.jp2"):
        (root / name).write_bytes((root / "0.png").read_bytes())  # the content tells the kind
    for name in ("e", "f.txt", "g.txt", "h.line\nfeed"):
        (root / name).touch()
    assert main(["check", str(root), "--workers", "0"]) == 0
    said = "left out: 2 .txt, 1 without an ending, 1 .line\\nfeed"
    assert capfd.readouterr().out.startswith(f"{root}: 5 images; {said}\n")


def test_without_any_image_the_message_says_what_there_is(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(DataError, match=r"no image below it; left out: 1 \.mp4"):
        open_images(tmp_path)


NAMES = ["0.jpg", "0.seg.png", "0.json", "1.jpg", "1.2.jpg", "2.left.png"]
MASKS = "left out: 1 .json, 1 NAME.seg beside an image NAME"


def test_masks_beside_images_of_their_name_are_left_out(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in NAMES:
        (tmp_path / "folder" / name).touch()
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", [(name, b"none") for name in NAMES])
    for root in (tmp_path / "folder", tmp_path / "shards"):
        images = open_images(root)
        found = {images.name(index) for index in range(len(images))}
        assert found == {"0.jpg", "1.jpg", "1.2.jpg", "2.left.png"}
        assert images.remark == MASKS


def test_several_images_of_one_name_are_said(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.jpg", b""), ("0.png", b""), ("1.jpg", b"")])
    assert len(open_images(tmp_path)) == 3
    assert remark(tmp_path).startswith(
        "several images of one name: 1 times, as a.tar/0; all are used"
    )


def test_all_of_joined_shards_is_read(tmp_path):
    parts = [
        write_tar(tmp_path / "part", [(f"{n}.png", bytes([n]) * 700) for n in numbers])
        for numbers in ((1, 2), (), (3,))
    ]
    (tmp_path / "part").unlink()
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    images = open_images(tmp_path)
    assert [images.read_bytes(n) for n in range(len(images))] == [
        bytes([n]) * 700 for n in (1, 2, 3)
    ]


def test_what_follows_a_shard_and_is_none_is_an_error(tmp_path):
    data = write_tar(tmp_path / "a.tar", [("0.png", b"none")])
    (tmp_path / "a.tar").write_bytes(data + b"\1" * 1024)
    with pytest.raises(DataError, match=r"a\.tar: cannot be read as an uncompressed tar file"):
        open_images(tmp_path)


def test_shards_are_found_at_any_depth_and_links_in_them_are_left_out(tmp_path):
    (tmp_path / "part").mkdir()
    with tarfile.open(tmp_path / "part" / "a.tar", "w") as tar:
        for name, kind in (("0.png", tarfile.REGTYPE), ("1.png", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "0.png"
            tar.addfile(member)
    (tmp_path / "._part.tar").write_bytes(b"none")
    images = open_images(tmp_path)
    assert [images.place(n) for n in range(len(images))] == [f"{tmp_path}/part/a.tar:0.png"]
    assert images.remark == "left out: 1 .png (link)"


def test_a_run_says_what_it_leaves_out(tmp_path):
    from pretrain.train import train
    from tests.pretrain.tiny import config

    root = write_images(tmp_path / "images")
    (root / "notes.txt").touch()
    train(config(root, tmp_path / "run", SOLVER__TOTAL_BATCH_SIZE=64))
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{root}: left out: 1 .txt" in log
    assert "a step has 6 of the 7 images, not SOLVER.TOTAL_BATCH_SIZE 64" in log


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("images\\train", "images/train does: folders need /, not backslashes"),
        ("images/images/train", "images/train does: a folder too many"),
        ("images/TRAIN", "images/train does: the name has other capitals"),
    ],
)
def test_a_folder_that_is_elsewhere_is_hinted_at(tmp_path, wrong, hint):
    write_images(tmp_path / "images" / "train", 1)
    with pytest.raises(DataError, match=f"no such folder; {tmp_path}/{hint}; name a folder of"):
        open_images(tmp_path / wrong)


def test_a_name_that_is_no_text_is_listed_as_it_is(tmp_path):
    root = write_images(tmp_path, 1)
    (root / "0.png").rename(root / os.fsdecode(b"caf\xe9.png"))
    assert list_images(root) == ["caf\udce9.png"]


def test_a_tar_of_a_folder_itself_has_its_images(tmp_path):
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", [("./1.png", b"1"), ("./.2.png", b"2")])
    assert len(open_images(tmp_path / "shards")) == 1
    assert remark(tmp_path / "shards") == "left out: 1 hidden"


def test_of_a_file_and_a_link_the_one_that_is_named_as_an_image_is_listed(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc123").write_bytes(b"")
    (tmp_path / "cat.jpg").symlink_to("blobs/abc123")
    assert list_images(tmp_path) == ["cat.jpg"]
    assert not remark(tmp_path)


def test_a_point_in_a_name_makes_no_mask(tmp_path):
    names = ["John.Smith.jpg", "John.jpg", "img.jpg", "img.v2.jpg"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert list_images(tmp_path) == names


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    write_images(tmp_path, 1)
    with pytest.raises(DataError, match=r"0\.png: is a file; name the folder that holds it"):
        open_images(tmp_path / "0.png")
