"""``python -m benchmarks.scenes``: the same bytes for the same request, all of them or none."""

import fcntl
import os

import pytest

from benchmarks.scenes import coco
from benchmarks.scenes.__main__ import main
from benchmarks.scenes.generate import Request, ScenesError, generate
from tests.benchmarks.scenes.drawn import REQUEST


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_gives_same_bytes_for_any_number_of_workers(tmp_path):
    request = Request(unlabelled=5, train=9, val=6, longest_side=96, seed=1)
    for name, workers in (("one", 1), ("two", 2)):
        generate(tmp_path / name, request, workers)
    first = files(tmp_path / "one")
    pictures, labelled = 5 + 9 + 6, 9 + 6
    layouts = labelled * (2 + 5 + 1)  # VOC, Cityscapes, DensePose
    assert len(first) == pictures + layouts + (3 * 2 + 4) + 3 + 5 + 1  # JSON, lists, surface
    assert files(tmp_path / "two") == first


def test_image_does_not_depend_on_how_many_are_drawn(tmp_path, out):
    fewer = Request(1, 2, 1, REQUEST.longest_side, seed=REQUEST.seed)
    generate(tmp_path / "fewer", fewer)
    for name, content in files(tmp_path / "fewer" / "coco").items():
        if name.endswith(".jpg"):
            assert content == (out / "coco" / name).read_bytes(), name


def test_finished_folder_is_left_alone_and_other_arguments_are_refused(tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(out), "--images", "1", "--train", "2", "--val", "1", "--size", "64"]
    arguments += ["--workers", "1"]
    assert main(arguments) == 0
    line = capsys.readouterr().out
    assert line.startswith("scenes: 1 unlabelled, 2 train, 1 val images, ")
    assert line.rstrip().endswith(f"-> {out}")
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(arguments) == 0
    assert "already holds" in capsys.readouterr().out
    assert main([*arguments, "--seed", "9"]) == 2
    message = capsys.readouterr().err
    assert f"{out}: holds scenes with seed 0; asked for seed 9. Delete it, or" in message
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize("content", [{"holiday.jpg": ""}, {"scenes.json": "{"}])
def test_folder_with_other_content_is_refused_and_kept(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ScenesError, match="Delete it, or name another folder"):
        generate(tmp_path, REQUEST)
    assert {path.name for path in tmp_path.iterdir()} == set(content)


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_generation_leaves_nothing(tmp_path, monkeypatch, workers):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco, "finish", interrupt)
    request = Request(unlabelled=2, train=1, val=1, longest_side=64)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "out", request, workers)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert generate(tmp_path / "out", request, workers)["train"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed_and_a_running_one_is_respected(tmp_path):
    partial = tmp_path / ".out.partial"
    (partial / "coco/train2017").mkdir(parents=True)
    (partial / "coco/train2017/000000009999.jpg").write_bytes(b"half")
    request = Request(unlabelled=0, train=1, val=1, longest_side=64)
    descriptor = os.open(partial, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ScenesError, match="another process"):
        generate(tmp_path / "out", request)
    assert (partial / "coco/train2017/000000009999.jpg").exists()
    os.close(descriptor)
    generate(tmp_path / "out", request)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out/coco/train2017").iterdir()] == [
        "000000000001.jpg"
    ]
