import re

import numpy as np
import pytest

from benchmarks.speed.__main__ import main
from benchmarks.speed.compare import Row, compare
from pretrain.runtime.provenance import hardware


@pytest.mark.parametrize(
    ("what", "rows"),
    [
        ("eval", ["COCO boxes", "COCO masks", "COCO keypoints", "LVIS boxes", "LVIS masks"]),
        ("views", ["views, all", "views, loader"]),
        ("loss", ["loss"]),
        ("optimizer", ["teacher", "LARS"]),
    ],
)
def test_both_ways_give_equal_numbers_and_every_row_a_line(what, rows, capsys):
    assert main([what, "--pairs", "2", "--images", "20"]) == 0  # equal, or it raises
    first, second, head, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(hardware())
    assert re.match(rf"{what}(, 20 images, 100 detections each)?, 2 pairs$", second)
    assert head.split() == ["row", "baseline", "ours_s", "theirs_s", "ratio", "min", "max"]
    assert [re.split(r" {2,}| (?=pycoco|lvis)", line)[0] for line in lines] == rows
    for line in lines:
        assert re.search(r"(plain|pycocotools|lvis)( +\d+\.\d\d){5}$", line), line


def test_both_ways_get_copies_of_their_own_and_unequal_numbers_stop():
    def spoil(numbers):
        numbers[0] += 1
        return numbers

    row = Row("one", "other", lambda: ([0.5, 1.0],), spoil, spoil)
    assert compare(row, pairs=3).split()[:2] == ["one", "other"]
    unequal = Row("one", "other", lambda: ([0.5, 1.0],), spoil, np.array)
    with pytest.raises(AssertionError, match="one"):
        compare(unequal, pairs=1)
