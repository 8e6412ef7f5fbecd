"""What cannot be used is named: damaged shards, names, and all that the command check lists."""

import gzip
import os
import re
import shutil

import numpy as np
import pytest

from pretrain.data import __main__ as command
from pretrain.data.__main__ import main
from pretrain.data.folder import DataError
from pretrain.data.shards import INDEX, open_images, write_shards
from tests.pretrain.tiny import write_images


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def shards(images, tmp_path):
    write_shards(images, tmp_path / "shards", max_bytes=12_000)
    return tmp_path / "shards"


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def compressed(path):
    path.write_bytes(gzip.compress(path.read_bytes()))


def spoil_index(path):
    (path.parent / INDEX).write_bytes(b"no index")


def cut_index(path):
    (path.parent / INDEX).write_bytes((path.parent / INDEX).read_bytes()[:600])


def without_offsets(path):
    index = dict(np.load(path.parent / INDEX))
    del index["offset"]
    np.savez(path.parent / INDEX, **index)


def newer(path):
    np.savez(path.parent / INDEX, format=np.array(99))


def packed(path):
    path.rename(path.with_suffix(".tar.gz"))


def beside(path):
    (path.parent / "n01440764").mkdir()


@pytest.mark.parametrize(
    ("spoil", "indexed", "message"),
    [
        (cut, True, r"000000\.tar: has changed \(\d+ bytes, \d+ in its index\); remove .*npz"),
        (cut, False, r"000000\.tar: cannot be read as an uncompressed tar file \(.*\); copy it"),
        (compressed, False, r"000000\.tar: cannot be read as an uncompressed tar file"),
        (lambda path: path.write_bytes(b""), False, r"000000\.tar: cannot be read as .* tar file"),
        (os.remove, True, r"000000\.tar: has changed \(no bytes"),
        (spoil_index, True, r"index\.npz: is no index of shards \(.*\); remove"),
        (cut_index, True, r"index\.npz: is no index of shards \(.*\); remove"),
        (without_offsets, True, r"index\.npz: is no whole index \(lacks offset\); remove"),
        (newer, True, r"index\.npz: format 99 is newer than this code's 1; update it, or remove"),
        (packed, False, r"shard-000000\.tar\.gz: is compressed, .*; decompress it to a \.tar"),
        (beside, True, r"holds shards \(shard-000000\.tar\) and folders or images \(n01440764\)"),
    ],
)
def test_shards_that_cannot_be_used_are_named(images, tmp_path, spoil, indexed, message):
    write_shards(images, tmp_path / "shards", max_bytes=12_000)
    if not indexed:
        (tmp_path / "shards" / INDEX).unlink()
    spoil(tmp_path / "shards" / "shard-000000.tar")
    with pytest.raises(DataError, match=message):
        open_images(tmp_path / "shards")


@pytest.mark.parametrize(
    ("name", "message"),
    [("0.jpg", r"0\.jpg and .*0\.png differ in their extension only"), (".png", "no name before")],
)
def test_names_that_shards_cannot_hold_are_refused(images, tmp_path, name, message):
    shutil.copy(images / "0.png", images / name)
    with pytest.raises(DataError, match=message):
        write_shards(images, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def run_check(capfd, *arguments):
    code = main(["check", *map(str, arguments), "--workers", "2"])
    return code, capfd.readouterr().out


def test_check_passes_what_is_good(images, shards, capfd):
    for folder in (images, shards):
        code, said = run_check(capfd, folder, "--count", 7)
        assert code == 0
        assert said == f"{folder}: 7 images 7 .png\n{folder}: all is right\n"


def test_check_lists_every_image_that_cannot_be_used(images, tmp_path, capfd):
    (images / "empty.jpg").write_bytes(b"")
    (images / "nested" / "cut.png").write_bytes((images / "0.png").read_bytes()[:500])
    write_shards(images, tmp_path / "shards")
    code, said = run_check(capfd, images, "--count", 20)
    assert code == 1
    assert f"{images}: 9 images, not the 20 of --count\n" in said
    assert re.search(rf"^{images}/empty\.jpg: .*\n{images}/nested/cut\.png: ", said, re.MULTILINE)
    assert said.endswith(f"{images}: 3 things are wrong\n")
    code, said = run_check(capfd, tmp_path / "shards")
    assert code == 1
    assert f"{tmp_path}/shards/shard-000000.tar:nested/cut.png: " in said


def test_check_compares_shards_with_their_index(shards, capfd):
    index = dict(np.load(shards / INDEX))
    index["offset"][3] += 512
    np.savez(shards / INDEX, **index)
    code, said = run_check(capfd, shards)
    assert code == 1
    assert f"{shards}: its index does not say what the shards hold (offset); write" in said


def test_check_names_a_folder_that_is_not_there(tmp_path, capfd):
    assert main(["check", str(tmp_path / "nowhere")]) == 2
    assert "error: " in capfd.readouterr().err


def test_check_names_a_shard_that_is_cut(shards, capfd):
    shard = shards / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    assert main(["check", str(shards)]) == 2
    assert re.match(r"error: .*shard-000000\.tar: has changed \(5000 b", capfd.readouterr().err)
    (shards / INDEX).unlink()
    assert main(["check", str(shards)]) == 2
    assert "shard-000000.tar: cannot be read as an uncompressed tar" in capfd.readouterr().err


def test_every_reason_is_one_line_of_text(images, capfd):
    (images / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    (images / "lost.png").symlink_to("nowhere")
    code, said = run_check(capfd, images)
    assert code == 1
    assert f"{images}/caf\\udce9.png: is no image of a known kind\n" in said
    assert f"{images}/lost.png: No such file or directory\n" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--workers", "0"], "--workers 0: 1 or more processes decode"),
        (["shards", "out", "--size-mb", "0"], "--size-mb 0: a shard holds more than 0 MB"),
    ],
)
def test_options_without_sense_are_refused(images, words, message, capfd):
    with pytest.raises(SystemExit) as end:
        main([words[0], str(images), *words[1:]])
    assert end.value.code == 2
    assert message in capfd.readouterr().err


def test_an_interrupted_check_ends_with_130(images, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "progress_bar", interrupt)
    assert main(["check", str(images)]) == 130
