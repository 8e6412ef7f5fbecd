"""SCENES.svg: whose curves it has, that they are within it, and that it can be seen."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from benchmarks.committed import read_replicates
from benchmarks.scenes_picture import COLOURS, GREY, HEAD, HEIGHT, WIDTH, draw, mean
from tests.benchmarks.replicates import (
    CLOVE_CURVE,
    OF_CELL,
    write_json,
    write_pairs,
    write_replicate,
)

TASKS = ("coco_c4", "coco_fpn", "keypoints_fpn", "voc_c4")


def lines_of(picture: str) -> dict[tuple[str, str], list[list[tuple[float, float]]]]:
    """The points of the curves, by what they are (thin or bold) and whose; not the legend's."""
    found = {}
    for path in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}path"):
        if (
            "class" in path.attrib
            and "," in path.get("d").split("H")[0][1:]
            and "H" not in path.get("d")
        ):
            kind, whose = path.get("class").split()
            points = [tuple(map(float, pair.split(","))) for pair in path.get("d")[1:].split()]
            found.setdefault((kind, whose), []).append(points)
    return found


def test_a_thin_line_for_each_replicate_and_a_bold_one_for_their_mean(tmp_path):
    write_pairs(tmp_path, [10.0, 11.0, 12.0], [9.0, 9.5, 9.7])
    write_json(tmp_path / OF_CELL / "curve.json", CLOVE_CURVE | {"total_loss": [4.0, 4.0, 4.0]})
    found = lines_of(draw(read_replicates(tmp_path)))
    # clove: match rate and the loss of one task; random: the latter; chance: the former
    counts = {("thin", "clove"): 6, ("bold", "clove"): 2, ("thin", "random"): 3}
    counts |= {("bold", "random"): 1, ("thin", "chance"): 3, ("bold", "chance"): 1}
    assert {key: len(lines) for key, lines in found.items()} == counts
    thin, bold = found["thin", "clove"][3:], found["bold", "clove"][1]
    for n, (x, y) in enumerate(bold):
        assert y == pytest.approx(sum(line[n][1] for line in thin) / 3, abs=0.1)
        assert {line[n][0] for line in thin} == {x}
    assert thin[0] != thin[1]


def test_every_point_and_label_is_within_its_panel(tmp_path):
    tasks = dict.fromkeys(TASKS, 9.0)
    write_replicate(
        tmp_path, 100, {r: {"clove": tasks, "random": tasks} for r in ("full", "frozen")}
    )
    picture = draw(read_replicates(tmp_path))
    for lines in lines_of(picture).values():
        for x, y in (point for line in lines for point in line):
            assert 0 < x < WIDTH
            assert 0 < y < HEIGHT
    root = ET.fromstring(picture)
    groups = root.findall("{http://www.w3.org/2000/svg}g")
    assert len(groups) == 9  # the match rate, four tasks in two regimes
    places = [tuple(map(int, re.findall(r"\d+", group.get("transform")))) for group in groups]
    assert len(set(places)) == 9
    assert root.get("viewBox") == f"0 0 {3 * WIDTH} {HEAD + 3 * HEIGHT}"
    for group in groups:
        labels = [text.text for text in group.iter("{http://www.w3.org/2000/svg}text")]
        assert "0" in labels
        assert ("step" in labels) != ("iteration" in labels)


def test_the_mean_of_curves_of_different_steps_is_that_of_the_lines_between():
    first = np.array([0.0, 10.0, 20.0]), np.array([0.0, 1.0, 3.0])
    second = np.array([5.0, 15.0, 30.0]), np.array([2.0, 4.0, 7.0])
    x, y = mean([first, second])
    assert x.tolist() == [5.0, 10.0, 15.0, 20.0]
    assert y == pytest.approx([(0.5 + 2) / 2, (1 + 3) / 2, (2 + 4) / 2, (3 + 5) / 2])
    apart = np.array([40.0, 50.0]), np.array([1.0, 1.0])
    assert len(mean([first, apart])[0]) == 0


def test_a_loss_that_was_not_finite_leaves_a_gap_and_no_nan(tmp_path):
    write_pairs(tmp_path, [10.0], [9.0])
    write_json(tmp_path / OF_CELL / "curve.json", CLOVE_CURVE | {"total_loss": [4.0, None, 1.0]})
    picture = draw(read_replicates(tmp_path))
    assert "nan" not in picture
    assert [len(line) for line in lines_of(picture)["thin", "clove"]] == [2, 2]


def luminance(colour: str) -> float:
    """As the Web Content Accessibility Guidelines 2 define it."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", ["#ffffff", "#0d1117"])
def test_every_colour_stands_out_from_light_and_dark_pages(page):
    for colour in {*COLOURS.values(), GREY}:
        high, low = sorted((luminance(colour), luminance(page)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4
