"""A folder and the shards written from it are the same images to a run."""

import errno
import gzip
import logging
import os
import re
import shutil
import tarfile

import pytest
import torch

from pretrain.__main__ import main as pretrain
from pretrain.data import build_data
from pretrain.data.__main__ import main
from pretrain.data.folder import DataError, Folder
from pretrain.data.shards import INDEX, Shards, open_images, write_shards
from pretrain.runtime import checkpoints
from tests.pretrain.tiny import (
    CONFIG,
    config,
    words,
    write_images,
)

ODD = (
    *("a.b.png", "100%.PNG", "a%2Eb.png", "with space.png", "größe.png", "v1.2%2E/100%25/x.png"),
    "deep/" * 40 + "x.png",
    os.fsdecode(b"caf\xe9.png"),  # Latin-1
    "last.png",
)


@pytest.fixture
def images(tmp_path):
    """Images under all kinds of names."""
    folder = write_images(tmp_path / "images")
    for name in ODD:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "0.png", folder / name)
        with open(folder / name, "ab") as file:
            file.write(os.fsencode(name))  # no two have the same bytes
    return folder


@pytest.fixture
def shards(images, tmp_path):
    """The same in shards of 4 images or so."""
    assert write_shards(images, tmp_path / "100% shards", max_bytes=12_000) > 2
    return tmp_path / "100% shards"


@pytest.mark.parametrize("index", ["whole", "cut", "none"])
def test_shards_hold_the_folders_images_in_its_order(images, shards, index):
    if index == "cut":
        (shards / INDEX).write_bytes((shards / INDEX).read_bytes()[:600])
    if index == "none":
        (shards / INDEX).unlink()
    folder, found = Folder(images), open_images(shards)
    assert isinstance(found, Shards)
    assert len(found) == len(folder) == 7 + len(ODD)
    assert found.sha256() == folder.sha256()
    for n in range(len(folder)):
        assert found.name(n) == folder.name(n)
        assert found.read_bytes(n) == folder.read_bytes(n)


def test_foreign_shards_are_searched_and_what_is_no_image_is_counted(
    images, tmp_path, capfd, monkeypatch
):
    logger = logging.getLogger("pretrain")  # as a run finds it: it sets up its log later
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for shard in "ab":
        with tarfile.open(foreign / f"{shard}.tar", "w") as tar:
            for n in (1, 0):
                tar.add(images / "0.png", f"{shard}{n}.png")
                tar.add(images / "0.png", f"{shard}{n}.cls")
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.LNKTYPE, f"{shard}1.png"
            tar.addfile(link)
    found = open_images(foreign)
    assert [found.name(n) for n in range(len(found))] == ["a1.png", "a0.png", "b1.png", "b0.png"]
    assert found.read_bytes(3) == (images / "0.png").read_bytes()
    searched = f"{foreign}: has no index.npz of these very shards, searching them\n"
    assert capfd.readouterr().err == searched
    assert found.remark == "left out: 4 .cls, 2 .png (link)"


@pytest.mark.fault(
    "The writer of shards fails",
    cause="a full disk in its midst",
    lost="nothing: no folder of shards is there until all are written",
)
def test_a_writer_that_fails_leaves_nothing_that_looks_like_shards(
    images, tmp_path, monkeypatch, capfd
):
    read, out = Folder.read_bytes, tmp_path / "shards"

    def fail(self, n):
        if n == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return read(self, n)

    words = ["shards", str(images), str(out), "--size-mb", "0.012"]
    left = tmp_path / ".shards.partial" / "shard-000007.tar"  # by one that was killed before
    left.parent.mkdir()
    left.write_bytes(b"half a shard")
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read_bytes", fail)
        assert main(words) == 1
    assert capfd.readouterr().err == "error: [Errno 28] No space left on device\n"
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert main(words) == 0
    assert open_images(out).sha256() == Folder(images).sha256()


@pytest.mark.fault(
    "The data folder is unmounted in mid-run",
    cause="the folder renamed, with two loader processes at work",
    lost="nothing before the last checkpoint, which stays",
)
def test_a_folder_that_vanishes_is_a_clear_end(images, tmp_path, capfd, monkeypatch):
    save = checkpoints.save

    def save_and_unmount(*arguments):
        images.rename(tmp_path / "elsewhere")
        images.mkdir()  # as a mount point is left
        return save(*arguments)

    monkeypatch.setattr(checkpoints, "save", save_and_unmount)
    arguments = words(images, tmp_path / "run", DATA__NUM_WORKERS=2, SOLVER__EPOCHS=5)
    assert pretrain(["--config-file", CONFIG, *arguments]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"error: .*/images: 20 images in a row cannot be read \(.*\); is it still mounted\? .*",
        error,
    )
    assert len(checkpoints.list_checkpoints(tmp_path / "run")) == 1


def test_a_missing_file_is_a_bad_image_while_the_folder_is_there(images, tmp_path, monkeypatch):
    data = build_data(config(images, tmp_path / "run"), torch.device("cpu"))
    (images / data.images.name(3)).unlink()
    _, tried = data[0, 3]
    assert tried[0] == 3
    assert len(tried) == 2


# ---------------------------------------------------------------------------------------------
# What cannot be used


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def compressed(path):
    path.write_bytes(gzip.compress(path.read_bytes()))


def packed(path):
    path.rename(path.with_suffix(".tar.gz"))


def beside(path):
    write_images(path.parent / "n01440764", 1)


@pytest.mark.parametrize(
    ("spoil", "indexed", "message"),
    [
        (cut, True, r"000000\.tar: cannot be read as an uncompressed tar file \(.*\); copy it"),
        (compressed, False, r"000000\.tar: cannot be read as an uncompressed tar file"),
        (lambda path: path.write_bytes(b""), False, r"000000\.tar: cannot be read as .* tar file"),
        (packed, False, r"shards \(shard-000001\.tar\), and shard-000000\.tar\.gz beside them"),
        (
            beside,
            True,
            r"shards \(shard-000000\.tar\), and n01440764/0\.png beside them",
        ),
    ],
)
def test_shards_that_cannot_be_used_are_named(images, tmp_path, spoil, indexed, message):
    write_shards(images, tmp_path / "shards", max_bytes=12_000)
    if not indexed:
        (tmp_path / "shards" / INDEX).unlink()
    spoil(tmp_path / "shards" / "shard-000000.tar")
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "shards")
