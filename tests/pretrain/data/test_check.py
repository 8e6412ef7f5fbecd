"""``python -m pretrain.data check`` lists all that cannot be used."""

import os
import re

import pytest

from pretrain.data.__main__ import main
from pretrain.data.shards import write_shards
from tests.pretrain.tiny import write_images


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def run_check(capfd, *arguments):
    code = main(["check", *map(str, arguments), "--workers", "2"])
    return code, capfd.readouterr().out


def test_check_passes_what_is_good(images, tmp_path, capfd):
    write_shards(images, tmp_path / "shards", max_bytes=12_000)
    for folder in (images, tmp_path / "shards"):
        code, said = run_check(capfd, folder, "--count", 7)
        assert code == 0
        assert said == f"{folder}: 7 images\n{folder}: all is right\n"


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nowhere"], "nowhere: no such folder"),
        (["shards", "images", "images"], "images: exists; remove it or name another folder"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_the_reason(
    images, tmp_path, monkeypatch, words, message, capfd
):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capfd.readouterr().err.startswith(f"error: {message}")


def test_every_reason_is_one_line_of_text(images, capfd):
    (images / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no image")
    (images / "lost.png").symlink_to("nowhere")
    code, said = run_check(capfd, images)
    assert code == 1
    assert f"{images}/caf\\udce9.png: is no image of a known kind\n" in said
    assert f"{images}/lost.png: No such file or directory\n" in said
