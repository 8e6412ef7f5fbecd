"""The HTML page of 500 cells, and whether a browser is content with it."""

import pytest

from benchmarks.report.page import report
from tests.benchmarks.report.pages import (
    Grids,
    check_values,
    needs_chromium,
    open_page,
    page_of,
    write_full_cell,
    write_picture,
)
from tests.benchmarks.tables.cells import OFFICIAL, VALUES, write_cell, write_clove
from tests.benchmarks.tables.pages import RANDOM, write_matrix

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
head("n").querySelector("button").click(); head("n").querySelector("button").click();
verdict.n = column(head("n"));
verdict.aria = document.querySelectorAll("[aria-sort]").length;
"""


@needs_chromium
def test_a_browser_sorts_by_the_numbers_and_keeps_the_empty_last(tmp_path):
    for seed in (0, 1, 2):
        write_clove(tmp_path, seed, metrics=VALUES | {"bbox/AP": 9.5})
        write_cell(tmp_path, seed=seed, metrics=VALUES | {"bbox/AP": 10.25})
    write_matrix(
        tmp_path, ["coco_fpn"], dict.fromkeys(["clove", "random", "waits"], RANDOM), [0, 1, 2]
    )
    report(tmp_path)
    verdict = open_page(tmp_path / "report.html", SORT)
    assert verdict["focused"]
    assert verdict["first"][:2] == ["10.25 ± 0.00", "9.50 ± 0.00"]
    assert verdict["second"][:2] == ["9.50 ± 0.00", "10.25 ± 0.00"]
    assert set(verdict["first"][2:]) == set(verdict["second"][2:]) == {"–", "missing"}
    assert (verdict["firstAria"], verdict["secondAria"]) == ("descending", "ascending")
    assert verdict["method"] == sorted(verdict["method"])
    assert verdict["n"][:3] == ["0 of 3", "3", "3"]
    assert set(verdict["n"][3:]) == {"–"}
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


PRINT = """
const [first, ...others] = document.querySelectorAll("details");
const cell = document.getElementById("random/coco_fpn/seed0");
first.open = cell.open = true;
const open = () => [...document.querySelectorAll("details")].filter(one => one.open);
const names = () => open().map(one => one.id || one.querySelector("summary").textContent);
verdict.before = names();
dispatchEvent(new Event("beforeprint")); verdict.during = names();
dispatchEvent(new Event("afterprint")); verdict.after = names();
"""


@needs_chromium
def test_what_a_task_folds_away_is_printed_and_of_the_cells_what_is_open(tmp_path):
    for seed, value in enumerate((10.0, 11.0, 13.0)):
        write_clove(tmp_path, seed, metrics=VALUES | {"bbox/AP": value})
        write_full_cell(tmp_path, seed=seed)
    report(tmp_path)
    verdict = open_page(tmp_path / "report.html", PRINT)
    comparisons, cell = "Comparisons between inits", "random/coco_fpn/seed0"
    assert verdict["before"] == [comparisons, cell]
    assert verdict["during"] == [comparisons, "loss_box_reg, loss_cls, lr", cell]
    assert verdict["after"] == verdict["before"]


LABEL = """
const labels = [...document.querySelectorAll("figure svg text")];
verdict.left = Math.min(...labels.map(label => label.getBBox().x));
verdict.names = labels.filter(label => /[_x]/.test(label.textContent)).length;
"""


@needs_chromium
def test_the_names_beside_bars_are_within_the_picture(tmp_path):
    for init in ("a_very_long_name_of_an_init_0123456789", "supervised_msra_bgr_at_2x_again", "x"):
        write_cell(tmp_path, init)
    report(tmp_path)
    verdict = open_page(tmp_path / "report.html", LABEL)
    assert verdict["names"] == 3
    assert verdict["left"] >= 0


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
const sortable = name => cell => cell.querySelector("span").textContent === name;
const tables = [...document.querySelectorAll(".sortable")];
document.body.getBoundingClientRect();
verdict.load = performance.now();
const biggest = tables.sort((a, b) => b.rows.length - a.rows.length)[0];
verdict.rows = biggest.tBodies[0].rows.length;
const head = [...biggest.tHead.rows[0].cells].find(sortable("value"));
const before = performance.now();
head.querySelector("button").click();
document.body.getBoundingClientRect();
verdict.sort = performance.now() - before;
verdict.order = head.getAttribute("aria-sort");
verdict.values = [...biggest.tBodies[0].rows].map(row => row.cells[head.cellIndex].dataset.value);
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
    (table,) = [grid for grid in Grids(page_of(many)).found if grid.caption == "All cells"]
    values = [float(row["value measured"].value) for row in table.rows]
    assert len(set(values)) > 100
    assert verdict["order"] == "descending"
    assert list(map(float, verdict.pop("values"))) == sorted(values, reverse=True)
    print(verdict)  # milliseconds of load, sort and search
