"""The HTML page: what is on it, how large it is, and whether a browser is content with it."""

import csv
import html
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from benchmarks.__main__ import main
from benchmarks.collect import collect
from benchmarks.report.page import report
from benchmarks.report.pictures import BUDGET
from pretrain.runtime.config import REPOSITORY
from tests.benchmarks.cells import OFFICIAL, VALUES, write_cell, write_clove
from tests.benchmarks.report_cells import (
    needs_chromium,
    open_page,
    write_begun_cell,
    write_full_cell,
    write_matrix,
    write_picture,
)

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


def page_of(folder) -> str:
    return (folder / "report.html").read_text()


def details_of(page: str, name: str) -> str:
    """All that is folded away below a cell's name, as text."""
    start = page.index(f'<details class="cell" id="{name}">')
    return html.unescape(page[start : page.index("</details>", start)])


def csv_lines(folder) -> list[dict[str, str]]:
    with open(folder / "results.csv") as file:
        return list(csv.DictReader(file))


def check_values(folder) -> int:
    """Every value of results.csv is on the page, at its cell or in a published column."""
    collect(folder)
    page, lines = page_of(folder), csv_lines(folder)
    plain = html.unescape(page)
    published = set(re.findall(r'class="published" data-value="([^"]+)"', page))
    cells = {}
    for line in lines:
        name = f"{line['init']}/{line['task']}/seed{line['seed']}"
        if line["kind"] == "measured":
            if name not in cells:
                cells[name] = re.split("\n|<pre>|</pre>", details_of(page, name))
            assert f"{line['metric']} {line['value']}" in cells[name], line
        elif line["kind"] == "published":
            assert line["value"] in published, line
        else:
            assert f'"{name}: ' in plain, line
    for value in {value for line in lines for value in line.values()}:
        assert value in plain
    return len(lines)


def test_a_cell_is_done_failed_unfinished_or_missing(tmp_path):
    write_matrix(tmp_path, ["random"], ["coco_fpn"], [0, 1, 2, 3])
    write_full_cell(tmp_path, seed=0)
    failed = write_begun_cell(tmp_path, "random", "coco_fpn", 1)
    (failed / "stdout.failed").write_text('{"reason": "exit code 1 after 2 s", "exit_code": 1}')
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
    assert main(["report", str(tmp_path)]) == 1
    assert "seed1/metrics.json" in capsys.readouterr().err
    page = page_of(tmp_path)
    assert "Not collected (1)" in page
    assert "not readable as JSON" in details_of(page, "random/coco_fpn/seed1")
    assert 'aria-label="random/coco_fpn/seed1: failed"' in page


def test_a_folder_without_cells_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "no cell in it" in capsys.readouterr().err


def test_the_page_can_be_written_elsewhere(tmp_path):
    write_cell(tmp_path / "results")
    assert main(["report", str(tmp_path / "results"), "--output", str(tmp_path / "x.html")]) == 0
    assert (tmp_path / "x.html").is_file()
    assert not (tmp_path / "results" / "report.html").exists()


def test_every_value_of_results_csv_is_on_the_page(tmp_path):
    write_matrix(tmp_path, ["random", "clove"], ["coco_fpn"], [0, 1, 2])
    for seed, value in enumerate((12.345678901234567, 1e-7)):
        write_clove(tmp_path, seed, data=OFFICIAL, metrics=VALUES | {"bbox/AP": value})
    write_full_cell(tmp_path, data=OFFICIAL)
    write_full_cell(tmp_path, task="mine", metrics={"bbox/AP": 3.0, "other": 4})
    report(tmp_path)
    assert check_values(tmp_path) > 40


def test_captions_warn_of_other_data_and_of_untrained_models(tmp_path):
    low = dict.fromkeys(VALUES, 0.5)
    write_cell(tmp_path, metrics=low)
    report(tmp_path)
    assert "not official data" in page_of(tmp_path)
    assert page_of(tmp_path).count("this run shows the road, not quality") == 2  # bars, table
    write_cell(tmp_path, data=OFFICIAL)
    report(tmp_path)
    assert "not official data" not in page_of(tmp_path)
    assert "the road" not in page_of(tmp_path)


def test_means_have_whiskers_only_where_there_are_seeds(tmp_path):
    write_clove(tmp_path, 0)
    write_clove(tmp_path, 1, metrics=VALUES | {"bbox/AP": 14.5})
    write_cell(tmp_path)
    report(tmp_path)
    page = page_of(tmp_path)
    assert page.count('class="whisker"') == 1
    assert "13.50 ± 1.41" in page


def test_curves_have_at_most_200_points_and_the_last_one(tmp_path):
    write_begun_cell(tmp_path, "random", "coco_fpn", 0, lines=1999)
    log = tmp_path / "random" / "coco_fpn" / "seed0" / "training.jsonl"
    log.write_text(log.read_text() + '{"iteration": 39999, "total_loss": NaN}\n{"iterat')
    report(tmp_path)
    drawn = r'<path class="line s0" d="M([^"]+)"/>\n</svg>\n<figcaption>total_loss'
    (path,) = re.findall(drawn, page_of(tmp_path))
    points = [tuple(map(int, point.split(","))) for point in path.split()]
    assert 150 < len(points) <= 200
    assert points == sorted(points, key=lambda point: point[0])
    assert points[0][1] < points[-1][1]  # down the page: the loss falls
    assert "loss_box_reg, loss_cls, lr" in page_of(tmp_path)
    assert "eta_seconds" not in page_of(tmp_path)


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
    assert "<pre>SEED: 1 (there: 0)\nSOLVER.BASE_LR: 0.5 (there: 0.02)</pre>" in second
    assert "NMS_THRESH_TEST" not in second


def test_pictures_are_embedded_until_the_budget_is_spent(tmp_path, monkeypatch):
    folders = [write_full_cell(tmp_path, seed=seed) for seed in (0, 1)]
    for folder in folders:
        for name in ("a.png", "b.png"):
            write_picture(folder, name)
    (folders[0] / "pictures" / "broken.png").write_bytes(b"not a picture")
    report(tmp_path)
    uris = re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', page_of(tmp_path))
    assert len(uris) == 4
    monkeypatch.setattr("benchmarks.report.pictures.BUDGET", len(uris[0]) + 1)
    report(tmp_path)
    assert page_of(tmp_path).count("data:image/jpeg") == 1
    assert "4 more pictures" in page_of(tmp_path)
    assert BUDGET < 2_000_000


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


def test_report_needs_neither_torch_nor_detectron2(tmp_path):
    write_full_cell(tmp_path)
    code = (
        "import sys; from benchmarks.__main__ import main; main(sys.argv[1:]); "
        "print([m for m in ('torch', 'detectron2', 'transfer') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, "report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "[]"


SORT = """
const table = document.querySelector(".sortable"), cells = [...table.tHead.rows[0].cells];
const head = name => cells.find(cell => cell.textContent.replace(/\\s+/g, "") === name);
const column = th => [...table.tBodies[0].rows].map(row => row.cells[th.cellIndex].textContent);
const th = head("APmeasured");
th.querySelector("button").focus();
verdict.focused = document.activeElement === th.querySelector("button");
verdict.outline = getComputedStyle(document.activeElement).outlineStyle;
th.querySelector("button").click();
verdict.first = column(th); verdict.firstAria = th.getAttribute("aria-sort");
th.querySelector("button").click();
verdict.second = column(th); verdict.secondAria = th.getAttribute("aria-sort");
head("method").querySelector("button").click();
verdict.method = column(head("method"));
verdict.aria = document.querySelectorAll("[aria-sort]").length;
"""


@needs_chromium
def test_a_browser_sorts_by_the_numbers_and_keeps_the_empty_last(tmp_path):
    for seed in (0, 1, 2):
        write_clove(tmp_path, seed, metrics=VALUES | {"bbox/AP": 9.5})
        write_cell(tmp_path, seed=seed, metrics=VALUES | {"bbox/AP": 10.25})
    report(tmp_path)
    verdict = open_page(tmp_path / "report.html", SORT)
    assert verdict["focused"]
    assert verdict["first"][:2] == ["10.25 ± 0.00", "9.50 ± 0.00"]
    assert verdict["second"][:2] == ["9.50 ± 0.00", "10.25 ± 0.00"]
    assert set(verdict["first"][2:]) == set(verdict["second"][2:]) == {"–"}
    assert (verdict["firstAria"], verdict["secondAria"]) == ("descending", "ascending")
    assert verdict["method"] == sorted(verdict["method"])
    assert verdict["aria"] == 1


OPERATE = """
const input = document.querySelector("#search");
input.value = "SEED1 transfer"; input.dispatchEvent(new Event("input"));
const shown = each => [...document.querySelectorAll(each)].filter(one => !one.hidden);
verdict.found = shown(".cell").map(cell => cell.id);
verdict.rows = shown("#cell-table tbody tr").length;
verdict.output = document.querySelector("output").value;
location.hash = "#random/coco_fpn/seed0"; dispatchEvent(new HashChangeEvent("hashchange"));
const cell = document.getElementById("random/coco_fpn/seed0");
verdict.revealed = cell.open && !cell.hidden;
const toggle = document.querySelector(".toggle"); toggle.click();
verdict.off = document.querySelectorAll("figure .line.off").length;
verdict.pressed = toggle.getAttribute("aria-pressed"); toggle.click();
verdict.on = document.querySelectorAll("figure .line.off").length;
verdict.skip = document.querySelector("a").getAttribute("href");
"""


@needs_chromium
def test_a_browser_searches_unfolds_and_toggles(tmp_path):
    for seed in (0, 1):
        write_full_cell(tmp_path, seed=seed)
    report(tmp_path)
    verdict = open_page(tmp_path / "report.html", OPERATE)
    assert (verdict["found"], verdict["rows"]) == (["random/coco_fpn/seed1"], 1)
    assert verdict["output"] == "1 of 2"
    assert verdict["revealed"]
    assert (verdict["off"], verdict["pressed"], verdict["on"]) == (8, "false", 0)
    assert verdict["skip"] == "#main"


WIDTH = """
document.currentScript.remove();
const text = "<!doctype html>" + document.documentElement.outerHTML;
verdict.overflow = [360, 1280].map(width => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px`;
  document.body.replaceChildren(frame);
  const page = frame.contentDocument;
  page.open(); page.write(text); page.close();
  for (const details of page.querySelectorAll("details")) details.open = true;
  const phone = frame.contentWindow.matchMedia("(max-width: 40rem)").matches;
  const root = page.documentElement;
  return [phone, page.querySelectorAll("figure").length, root.scrollWidth - root.clientWidth];
});
"""


@needs_chromium
def test_nothing_but_tables_scrolls_sideways_on_a_phone(tmp_path):
    folder = write_full_cell(tmp_path, init="a_very_long_name_of_an_init_0123456789", data=OFFICIAL)
    write_picture(folder, "a.png")
    report(tmp_path)
    verdict = open_page(tmp_path / "report.html", WIDTH)
    assert verdict["overflow"] == [[True, 6, 0], [False, 6, 0]]


@needs_chromium
def test_the_console_of_a_broken_page_is_heard(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><body><script>nothing.here()</script>")
    with pytest.raises(AssertionError, match="nothing is not defined"):
        open_page(page, "")


MEASURE = """
const tables = [...document.querySelectorAll(".sortable")];
document.body.getBoundingClientRect();
verdict.load = performance.now();
const biggest = tables.sort((a, b) => b.rows.length - a.rows.length)[0];
verdict.rows = biggest.tBodies[0].rows.length;
const before = performance.now();
biggest.tHead.rows[0].cells[6].querySelector("button").click();
document.body.getBoundingClientRect();
verdict.sort = performance.now() - before;
verdict.sorted = biggest.tHead.rows[0].cells[6].getAttribute("aria-sort");
const typed = performance.now(), input = document.querySelector("#search");
input.value = "seed3"; input.dispatchEvent(new Event("input"));
document.body.getBoundingClientRect();
verdict.search = performance.now() - typed;
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """500 cells and their page."""
    folder = tmp_path_factory.mktemp("many")
    tasks = ["coco_c4", "coco_fpn", "lvis_fpn", "cityscapes_fpn", "keypoints_fpn"]
    inits = [f"init_{number:02}" for number in range(20)]
    metrics = VALUES | {f"{kind}/AP{k}": 1 / 3 + k for kind in ("bbox", "segm") for k in range(9)}
    for task in tasks:
        main_metric = {"cityscapes_fpn": "segm/AP", "keypoints_fpn": "keypoints/AP"}.get(task)
        for number, init in enumerate(inits):
            for seed in range(5):
                values = {name: value + number / 7 + seed / 11 for name, value in metrics.items()}
                values["keypoints/AP"] = 50 + seed / 3
                changes = {"metrics": values, "main_metric": main_metric or "bbox/AP"}
                cell = write_full_cell(folder, init, task, seed, data=OFFICIAL, **changes)
                if number < 10 and seed == 0:
                    write_picture(cell, "a.png")
    report(folder)
    return folder


def test_500_cells_take_under_5_mb(many):
    assert (many / "report.html").stat().st_size < 5_000_000
    assert check_values(many) > 10_000


@needs_chromium
def test_500_cells_are_there_and_sorted(many):
    verdict = open_page(many / "report.html", MEASURE)
    assert verdict["rows"] == 500
    assert verdict["sorted"] in ("ascending", "descending")
    print(verdict)  # milliseconds of load, sort and search
