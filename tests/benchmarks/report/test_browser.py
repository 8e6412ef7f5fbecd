"""Whether a browser is content with the HTML page."""

from benchmarks.report.page import report
from tests.benchmarks.report.pages import (
    needs_chromium,
    open_page,
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
        write_clove(tmp_path, seed, metrics=VALUES | {"bbox/AP": 9.5}, data=OFFICIAL)
        write_cell(tmp_path, seed=seed, metrics=VALUES | {"bbox/AP": 10.25}, data=OFFICIAL)
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
