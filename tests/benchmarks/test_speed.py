import re

import numpy as np
import pytest

from benchmarks.speed import Row, compare, main
from pretrain.runtime.provenance import hardware

SECONDS, RATIO = r" +\d+\.\d\d", r" +\d+\.\d\d"


def test_eval_prints_the_machine_and_a_line_for_every_row(capsys):
    assert main(["eval", "--images", "20", "--pairs", "2"]) == 0  # equal, or it raises
    first, second, header, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(hardware())
    assert "faster-coco-eval" in first
    assert second == "20 images, 100 detections each, 2 pairs"
    assert header.split() == ["row", "baseline", "ours_s", "theirs_s", "ratio", "min", "max"]
    names = [re.split(r" {2,}| (?=pycoco|lvis)", line)[0] for line in lines]
    assert names == ["COCO boxes", "COCO masks", "COCO keypoints", "LVIS boxes", "LVIS masks"]
    for line in lines:
        assert re.fullmatch(rf"[\w ]+(pycocotools|lvis)({SECONDS}){{2}}({RATIO}){{3}}", line), line


@pytest.mark.parametrize(
    ("what", "rows"),
    [
        ("views", ["views, all", "views, loader"]),
        ("loss", ["loss"]),
        ("optimizer", ["teacher", "LARS"]),
    ],
)
def test_pretraining_and_its_plain_baseline_give_equal_numbers(what, rows, capsys):
    assert main([what, "--pairs", "1"]) == 0  # equal, or it raises
    _, second, _, *lines = capsys.readouterr().out.splitlines()
    assert second == f"{what}, 1 pairs"
    found = [line.split("  ")[0] for line in lines if "peak memory" not in line]
    assert found == rows
    peaks = [line for line in lines if "peak memory" in line]
    assert len(peaks) == (what == "loss")
    assert all(
        re.fullmatch(r"loss: peak memory \d+\.\d MiB, plain \d+\.\d MiB", line) for line in peaks
    )


def test_both_ways_get_copies_of_their_own_and_unequal_numbers_stop():
    def spoil(numbers):
        numbers[0] += 1
        return numbers

    row = Row("one", "other", lambda: ([0.5, 1.0],), spoil, spoil)
    assert compare(row, pairs=3).split()[:2] == ["one", "other"]
    unequal = Row("one", "other", lambda: ([0.5, 1.0],), spoil, np.array)
    with pytest.raises(AssertionError, match="one"):
        compare(unequal, pairs=1)
