"""The HTML page: what is on it, and what it is made of."""

import json
import re
from html.parser import HTMLParser

from benchmarks.__main__ import main
from benchmarks.report.page import report
from tests.benchmarks.report.pages import (
    Grids,
    check_values,
    details_of,
    page_of,
    write_begun_cell,
    write_full_cell,
    write_picture,
)
from tests.benchmarks.tables.cells import OFFICIAL, SCENES, TASKS, VALUES, write_cell, write_clove
from tests.benchmarks.tables.pages import RANDOM, write_matrix

VOID = {"meta", "link", "input", "img", "br"}


class Nesting(HTMLParser):
    """Whether every tag is closed where it should be."""

    def __init__(self):
        super().__init__()
        self.open, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_cell_is_done_failed_unfinished_or_missing(tmp_path):
    write_matrix(tmp_path, ["coco_fpn"], dict.fromkeys(["random"], RANDOM), [0, 1, 2, 3])
    write_full_cell(tmp_path, seed=0)
    failed = write_begun_cell(tmp_path, "random", "coco_fpn", 1)
    state = {"outcome": "failed", "made_from": {}, "reason": "exit code 1 after 2 s"}
    (failed / "state.json").write_text(json.dumps(state))
    (failed / "stdout.log").write_text("$ python\nCUDA <out> of memory\n")
    write_begun_cell(tmp_path, "random", "coco_fpn", 2)
    assert report(tmp_path) == 0
    page = page_of(tmp_path)
    for seed, state in enumerate(["done", "failed", "unfinished", "missing"]):
        assert f'aria-label="random/coco_fpn/seed{seed}: {state}"' in page
    assert "exit code 1 after 2 s" in details_of(page, "random/coco_fpn/seed1")
    assert "CUDA <out> of memory" in details_of(page, "random/coco_fpn/seed1")
    assert "CUDA <out>" not in page


def test_what_is_not_a_result_is_named_and_failed(tmp_path, capsys):
    write_cell(tmp_path)
    write_cell(tmp_path, seed=1).write_text("{")
    write_matrix(tmp_path, ["coco_fpn"], {"random": RANDOM}, [0, 1])
    assert main(["report", str(tmp_path)]) == 1
    assert "seed1/metrics.json" in capsys.readouterr().err
    page = page_of(tmp_path)
    assert "Not collected (1)" in page
    assert "not readable as JSON" in details_of(page, "random/coco_fpn/seed1")
    assert 'aria-label="random/coco_fpn/seed1: failed"' in page


def test_a_folder_without_cells_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no cell in it" in capsys.readouterr().err


def test_every_value_of_results_csv_is_on_the_page(tmp_path):
    write_matrix(tmp_path, ["coco_fpn"], dict.fromkeys(["random", "clove"], RANDOM), [0, 1, 2])
    for seed, value in enumerate((12.345678901234567, 1e-7)):
        write_clove(tmp_path, seed, data=OFFICIAL, metrics=VALUES | {"bbox/AP": value})
    write_full_cell(tmp_path, data=OFFICIAL)
    write_full_cell(tmp_path, task="mine", metrics={"bbox/AP": 3.0, "other": 4})
    report(tmp_path)
    assert check_values(tmp_path) > 40


def test_command_environment_and_differences_of_the_config(tmp_path):
    packages = {"torch": "2.14.1"}
    write_full_cell(tmp_path, packages=packages)
    write_full_cell(tmp_path, seed=1, packages=packages)
    write_begun_cell(tmp_path, "random", "coco_fpn", 1, BASE_LR=0.5)
    report(tmp_path)
    first, second = (details_of(page_of(tmp_path), f"random/coco_fpn/seed{k}") for k in (0, 1))
    assert "python -m transfer --task coco_fpn --init random --seed 0" in first
    assert "packages.torch 2.14.1" in second
    assert "hardware CPU, 2 cores" in second
    assert "MODEL.ROI_HEADS.NMS_THRESH_TEST 0.5" in first
    assert "<pre>SEED 1 (there: 0)\nSOLVER.BASE_LR 0.5 (there: 0.02)</pre>" in second
    assert "NMS_THRESH_TEST" not in second


def test_pictures_are_embedded_up_to_a_number(tmp_path, monkeypatch):
    folders = [write_full_cell(tmp_path, seed=seed) for seed in (0, 1)]
    for folder in folders:
        for name in ("a.png", "b.png"):
            write_picture(folder, name)
    (folders[0] / "pictures" / "broken.png").write_bytes(b"not a picture")
    report(tmp_path)
    uris = re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', page_of(tmp_path))
    assert len(uris) == 4
    monkeypatch.setattr("benchmarks.report.pictures.MOST", 1)
    report(tmp_path)
    assert page_of(tmp_path).count("data:image/jpeg") == 1
    assert "4 more pictures" in page_of(tmp_path)


def test_the_first_screen_shows_result_detections_and_what_the_trunk_learnt(tmp_path, capsys):
    for write in (write_full_cell, write_clove):
        write(tmp_path)
    for init in ("clove", "random"):
        for name in ("a.png", "b.png"):
            write_picture(tmp_path / init / "coco_fpn" / "seed0", name)
    for kind in ("matches", "pca", "attention"):
        write_picture(tmp_path / "clove", f"photo_{kind}.png", (1600, 500))
    assert main(["report", str(tmp_path)]) == 0
    said = f"coco_fpn, box AP: clove 12.5, random 12.5; {tmp_path}/report.html: 2 done\n"
    assert capsys.readouterr().out == said
    page = page_of(tmp_path)
    first = page[page.index('<section id="shown">') : page.index('<section id="overview">')]
    assert first.count('class="bar ') == 2
    assert re.findall("<figcaption>(clove|random)[^<]*: ([^<]*)", first) == [
        ("clove", "ground truth and detections,\na.png"),
        ("random", "ground truth and detections,\na.png"),
        ("clove", "photo_matches.png"),
        ("clove", "photo_pca.png"),
    ]
    assert page.count("data:image/jpeg") == 6  # b.png of both, below


def test_the_page_is_well_formed_and_loads_nothing(tmp_path):
    write_picture(write_full_cell(tmp_path), "a.png")
    write_clove(tmp_path)
    report(tmp_path)
    page = page_of(tmp_path)
    nesting = Nesting()
    nesting.feed(page)
    assert nesting.open == []
    assert len(nesting.ids) == len(set(nesting.ids))
    for target in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert target.startswith(("data:", "#")), target
        assert not target.startswith("#") or target[1:] in nesting.ids
    assert "default-src 'none'" in page
    assert not re.search(r"@import|url\(", page)


def test_the_page_is_written_where_one_says(tmp_path, capsys):
    write_cell(tmp_path / "results")
    arguments = ["report", str(tmp_path / "results"), "--output"]
    assert main([*arguments, str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").is_file()
    assert not (tmp_path / "results" / "report.html").exists()
    assert main([*arguments, str(tmp_path)]) == 2
    assert f"error: {tmp_path}: not written (" in capsys.readouterr().err


def test_bars_have_whiskers_only_where_there_are_seeds_and_none_is_negative(tmp_path):
    write_clove(tmp_path, 0)
    write_clove(tmp_path, 1, metrics=VALUES | {"bbox/AP": 14.5})
    write_cell(tmp_path, "a_very_long_name_of_an_init_and_its_end", metrics={"bbox/AP": -1.0})
    report(tmp_path)
    page = page_of(tmp_path)
    assert page.count('class="whisker"') == 1
    assert "13.50 ± 1.41" in page
    assert ">a_very_long_…_and_its_end</text>" in page
    assert ">-1.00</text>" in page


def test_curves_of_two_data_sets_never_share_an_axis(tmp_path):
    for seed, data in enumerate((OFFICIAL, SCENES, SCENES)):
        write_full_cell(tmp_path, seed=seed, data=data)
    report(tmp_path)
    page = page_of(tmp_path)
    (table,) = [grid for grid in Grids(page).found if grid.caption == "All cells"]
    assert [row["data"].text for row in table.rows] == ["official", "scenes", "scenes"]
    figures = re.findall(r"<svg [^>]+over the iterations.*?</figcaption>", page, re.S)
    lines = [
        (re.search("<figcaption>(.*)</figcaption>", figure)[1], figure.count('<g class="line'))
        for figure in figures
    ]
    assert lines[:2] == [
        ("total_loss over iterations; data: official, fingerprint 0ff1c1a1", 1),
        ("total_loss over iterations; data: scenes, fingerprint 5ce7e55c", 2),
    ]
    assert len(lines) == 2 * 4  # two more losses and lr


def test_curves_have_at_most_200_points_and_the_last_one(tmp_path):
    write_matrix(tmp_path, ["coco_fpn"], {"random": RANDOM}, [0])
    write_begun_cell(tmp_path, "random", "coco_fpn", 0, lines=1999)
    log = tmp_path / "random" / "coco_fpn" / "seed0" / "training.jsonl"
    log.write_text(log.read_text() + '{"iteration": 39999, "total_loss": NaN}\n{"iterat')
    report(tmp_path)
    path = re.search(r'<g class="line s0">\s*<path d="M ([^"]+)"', page_of(tmp_path))[1]
    points = [tuple(map(float, point.split())) for point in path.split("L ")]
    assert 100 < len(points) <= 200  # matplotlib leaves out what is on a straight line
    assert points == sorted(points, key=lambda point: point[0])
    assert points[0][1] < points[-1][1]  # down the page: the loss falls


def test_500_cells_take_under_5_mb(tmp_path):
    metrics = VALUES | {f"bbox/AP{k}": 1 / 3 + k for k in range(9)}
    for number in range(500):
        init, task, seed = f"init_{number // 25}", list(TASKS)[number // 5 % 5], number % 5
        own = {"metrics": metrics, "main_metric": "bbox/AP", "data": OFFICIAL}
        cell = write_full_cell(tmp_path, init, task, seed, **own)
        if number < 50:
            write_picture(cell, "a.png")
    report(tmp_path)
    assert (tmp_path / "report.html").stat().st_size < 5_000_000
