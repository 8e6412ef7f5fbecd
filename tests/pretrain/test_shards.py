"""A folder and the shards written from it are the same images to a run."""

import io
import os
import re
import shutil
import signal
import tarfile

import numpy as np
import pytest
import torch
import webdataset

from pretrain import checkpoints
from pretrain.__main__ import main as pretrain
from pretrain.data import PositionSampler, build_data, build_loader
from pretrain.data.__main__ import main
from pretrain.data.folder import DataError, Folder
from pretrain.data.shards import INDEX, Shards, open_images, write_shards
from pretrain.runtime.interrupt import Interrupted
from pretrain.train import train
from tests.pretrain.tiny import (
    CONFIG,
    assert_equal_states,
    config,
    last_checkpoint,
    words,
    write_images,
)

ODD = ("a.b.png", "100%.PNG", "a%2Eb.png", "with space.png", "größe.png", "deep/" * 40 + "x.png")


@pytest.fixture
def images(tmp_path):
    """Images under all kinds of names."""
    folder = write_images(tmp_path / "images")
    for name in ODD:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "0.png", folder / name)
        with open(folder / name, "ab") as file:
            file.write(name.encode())  # no two have the same bytes
    return folder


@pytest.fixture
def shards(images, tmp_path):
    """The same in shards of 4 images or so."""
    assert write_shards(images, tmp_path / "100% shards", max_bytes=12_000) > 2
    return tmp_path / "100% shards"


def test_shards_hold_the_folders_images_in_its_order(images, shards):
    folder, found = Folder(images), open_images(shards)
    assert isinstance(found, Shards)
    assert len(found) == len(folder) == 7 + len(ODD)
    assert found.sha256() == folder.sha256()
    for n in range(len(folder)):
        assert found.name(n) == folder.name(n)
        assert found.read_bytes(n) == folder.read_bytes(n)


def test_without_their_index_the_shards_are_searched(shards):
    before = open_images(shards)
    (shards / INDEX).unlink()
    found = open_images(shards)
    assert found.sha256() == before.sha256()
    assert [found.read_bytes(n) for n in range(len(found))] == [
        before.read_bytes(n) for n in range(len(before))
    ]


def test_webdataset_reads_the_shards(images, shards):
    paths = sorted(map(str, shards.glob("*.tar")))
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    folder = Folder(images)
    assert [
        next(value for key, value in sample.items() if key.lower() == "png") for sample in samples
    ] == [folder.read_bytes(n) for n in range(len(folder))]


def test_writing_again_gives_the_same_bytes(images, shards, tmp_path):
    write_shards(images, tmp_path / "again", max_bytes=12_000)
    for path in shards.glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_run_on_shards_is_the_run_on_the_folder(images, shards, tmp_path):
    on_folder = train(config(images, tmp_path / "a", SOLVER__EPOCHS=1))
    on_shards = train(config(shards, tmp_path / "b", SOLVER__EPOCHS=1))
    assert_equal_states(on_folder, on_shards)


def test_a_run_on_shards_resumes_in_mid_epoch(images, shards, tmp_path, monkeypatch):
    changes = {"SOLVER__TOTAL_BATCH_SIZE": 2, "SOLVER__EPOCHS": 2}
    straight = train(config(images, tmp_path / "a", **changes))
    changes["DATA__NUM_WORKERS"] = 2
    with monkeypatch.context() as patch:
        step = torch.optim.Optimizer.zero_grad
        count = iter(range(1000))

        def interrupted(self, *rest, **more):
            step(self, *rest, **more)
            if next(count) == 6:
                os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(torch.optim.Optimizer, "zero_grad", interrupted)
        with pytest.raises(Interrupted):
            train(config(shards, tmp_path / "b", **changes))
    assert checkpoints.load(last_checkpoint(tmp_path / "b"))["epoch"] % 1
    assert_equal_states(straight, train(config(shards, tmp_path / "b", **changes), resume=True))


def test_every_image_of_the_shards_comes_once_per_epoch_over_ranks_and_workers(shards, tmp_path):
    cfg = config(shards, tmp_path, DATA__NUM_WORKERS=2, SOLVER__BATCH_SIZE_PER_GPU=1)
    data, length = build_data(cfg, torch.device("cpu")), 7 + len(ODD)
    whole = build_loader(cfg, data, 0, torch.device("cpu"))
    read = [index for batch, _ in zip(whole, range(length), strict=False) for index in batch.images]
    assert sorted(read) == list(range(length))
    ranks = [PositionSampler(length + 1, 1, 1, cfg.SEED, rank, 2) for rank in (0, 1)]
    assert sorted(index for rank in ranks for [(_, index)] in rank) == list(range(length + 1))


def tar_of(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_foreign_shards_are_searched_and_what_is_no_image_is_counted(images, tmp_path, capfd):
    main(["check", str(images)])  # the log goes to this test's standard error
    data = (images / "0.png").read_bytes()
    (tmp_path / "foreign").mkdir()
    for shard in "ab":
        members = {f"{shard}{n}.{kind}": data for n in (1, 0) for kind in ("png", "cls")}
        tar_of(tmp_path / "foreign" / f"{shard}.tar", members)
    found = open_images(tmp_path / "foreign")
    assert [found.name(n) for n in range(len(found))] == ["a1.png", "a0.png", "b1.png", "b0.png"]
    assert found.read_bytes(3) == data
    assert "4 files in the shards are no images and are left out" in capfd.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def compressed(path):
    tar_of(path, {"x.png": b"1"}, mode="w:gz")


def spoil_index(path):
    (path.parent / INDEX).write_bytes(b"no index")


def newer(path):
    index = dict(np.load(path.parent / INDEX))
    np.savez(path.parent / INDEX, **index | {"format": np.array(99)})


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
        (newer, True, r"index\.npz: format 99 is newer than this code's 1"),
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


@pytest.mark.fault(
    "The writer of shards is killed",
    cause="an error in its midst",
    lost="nothing: no folder of shards is there until all are written",
)
def test_a_killed_writer_leaves_nothing_that_looks_like_shards(images, tmp_path, monkeypatch):
    read, out = Folder.read_bytes, tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read_bytes", lambda self, n: read(self, n) if n < 9 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_shards(images, out, max_bytes=12_000)
    assert not out.exists()
    assert main(["shards", str(images), str(out), "--megabytes", "0.012"]) == 0
    assert open_images(out).sha256() == Folder(images).sha256()
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert main(["shards", str(images), str(out)]) == 2


def run_check(capfd, *arguments):
    code = main(["check", *map(str, arguments), "--workers", "2"])
    return code, capfd.readouterr().out


def test_check_passes_what_is_good(images, shards, capfd):
    for folder in (images, shards):
        code, said = run_check(capfd, folder, "--count", 7 + len(ODD))
        assert code == 0
        assert said == f"{folder}: 13 images 13 .png\n{folder}: all is right\n"


def test_check_lists_every_image_that_cannot_be_used(images, tmp_path, capfd):
    (images / "empty.jpg").write_bytes(b"")
    (images / "nested" / "cut.png").write_bytes((images / "0.png").read_bytes()[:500])
    write_shards(images, tmp_path / "shards")
    code, said = run_check(capfd, images, "--count", 20)
    assert code == 1
    assert f"{images}: 15 images, not the 20 of --count\n" in said
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
        r"error: .*/images: is gone \(.*\); is it still mounted\? --resume goes on from the last "
        r"checkpoint",
        error,
    )
    assert len(checkpoints.list_checkpoints(tmp_path / "run")) == 1
