"""Folders of cells with all that a fine-tuning leaves in them, and ways to read a page of them."""

import html
import json
import math
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.tables.collect import collect
from tests.benchmarks.tables.cells import TASKS, write_cell
from tests.benchmarks.tables.pages import csv_lines

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-headless-shell")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None,
    reason="NO BROWSER: the page was not opened; apt-get install chromium",
)
CONFIG = {
    "MODEL": {"WEIGHTS": "random", "ROI_HEADS": {"NUM_CLASSES": 80, "NMS_THRESH_TEST": 0.5}},
    "SOLVER": {"BASE_LR": 0.02, "MAX_ITER": 90000, "STEPS": [60000, 80000]},
    "SEED": 0,
}


def write_full_cell(
    results: Path, init: str = "random", task: str = "coco_fpn", seed: int = 0, **changes: Any
) -> Path:
    """A finished cell with log, config and curves; returns its folder."""
    folder = write_cell(results, init, task, seed, **changes).parent
    write_begun_cell(results, init, task, seed)
    return folder


def write_begun_cell(
    results: Path, init: str, task: str, seed: int, lines: int = 30, **solver: Any
) -> Path:
    """What is there before ``metrics.json``."""
    folder = results / init / task / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    command = f"python -m transfer --task {task} --init {init} --seed {seed}"
    (folder / "stdout.log").write_text(f"$ {command}\niter 20\n")
    config = CONFIG | {"SEED": seed, "SOLVER": CONFIG["SOLVER"] | solver}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with open(folder / "training.jsonl", "w") as log:
        for number in range(lines):
            loss = 1 + 3 * math.exp(-6 * number / lines) + 0.1 * math.sin(number + 7 * seed)
            record = {"iteration": 20 * number + 19, "total_loss": loss, "lr": 0.02}
            record |= {"loss_cls": loss / 2, "loss_box_reg": loss / 3, "eta_seconds": 1.0}
            log.write(json.dumps(record) + "\n")
    return folder


def write_picture(folder: Path, name: str, size: tuple[int, int] = (1032, 534)) -> None:
    """Two panels, as ``--visualize`` draws them."""
    width, height = size
    ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3).astype(np.uint8)
    (folder / "pictures").mkdir(exist_ok=True)
    Image.fromarray(ramp).save(folder / "pictures" / name)


def open_page(page: Path, script: str) -> dict[str, Any]:
    """Load ``page`` in Chromium, run ``script`` at its end; what that has put into ``verdict``.

    Fails for anything that the page's console said.
    """
    copy = page.with_name("opened.html")
    end = "document.body.textContent = 'VERDICT' + JSON.stringify(verdict) + 'END';"
    copy.write_text(
        page.read_text() + f"<script>{{const verdict = {{}};\n{script}\n{end}}}</script>"
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--user-data-dir={page.parent / 'chromium'}", "--dump-dom", copy.as_uri()]
    home = os.environ | {"HOME": str(page.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=home)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    assert "VERDICT{" in done.stdout, done.stderr[-2000:]
    text = done.stdout.partition("VERDICT")[2].partition("END")[0]
    return json.loads(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text()


def details_of(page: str, name: str) -> str:
    """All that is folded away below a cell's name, as text."""
    start = page.index(f'<details class="cell" id="{name}">')
    return html.unescape(page[start : page.index("</details>", start)])


@dataclass
class Entry:
    text: str
    value: str | None  # what it is sorted by, where that is not the text


@dataclass
class Grid:
    """A table that sorts."""

    section: str  # id of the section that it is in
    caption: str = ""
    columns: list[str] = field(default_factory=list)  # "AP measured", "AP published", "n"
    rows: list[dict[str, Entry]] = field(default_factory=list)

    def metrics(self, kind: str) -> Iterable[tuple[str, str]]:
        """Its metrics, which the caption names, and their columns of that kind."""
        for metric in self.caption.split(", "):
            column = f"{metric.rpartition('/')[2]} {kind}"
            if column in self.columns:
                yield metric, column


class Grids(HTMLParser):
    """All tables of a page that sort."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[Grid] = []
        self.section, self.row, self.cell, self.sortable = "", [], Entry("", None), False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if tag == "section":
            self.section = said["id"]
        elif tag == "table":
            self.sortable = said.get("class") == "sortable"
            self.found += [Grid(self.section)] if self.sortable else []
        elif tag == "tr":
            self.row = []
        elif tag in ("th", "td", "caption"):
            self.cell = Entry("", said.get("data-value"))

    def handle_data(self, data: str) -> None:
        self.cell.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td", "caption"):
            text = " ".join(self.cell.text.split())
            self.row.append(Entry(text, self.cell.value))
            self.cell = Entry("", None)
        if not self.sortable:
            return
        if tag == "caption":
            self.found[-1].caption = text
        elif tag == "tr" and not self.found[-1].columns:
            self.found[-1].columns = [cell.text for cell in self.row]
        elif tag == "tr":
            self.found[-1].rows.append(dict(zip(self.found[-1].columns, self.row, strict=True)))


def check_values(folder: Path) -> int:
    """Every value of results.csv stands in its place on the page, and no other value does.

    For folders with one data set for each task and one row for each init; returns the lines' count.
    """
    collect(folder)
    page, lines = page_of(folder), csv_lines(folder)
    grids = Grids(page).found
    measured, published = (
        [line for line in lines if line["kind"] == kind] for kind in ("measured", "published")
    )
    folded: dict[str, list[str]] = {}
    for line in measured:
        name = name_of(line)
        if name not in folded:
            folded[name] = re.split("\n|<pre>|</pre>", details_of(page, name))
        assert f"{line['metric']} {line['value']}" in folded[name]
        assert f"data.sha256 {line['data_sha256']}" in folded[name]
        assert f"config_sha256 {line['config_sha256']}" in folded[name]
    check_means(grids, measured)
    check_published(grids, published)
    return len(lines)


def name_of(line: dict[str, str]) -> str:
    return f"{line['init']}/{line['task']}/seed{line['seed']}"


def check_means(grids: list[Grid], measured: list[dict]) -> None:
    """The measured columns of the tasks' tables."""
    seeds: dict[tuple, list[float]] = {}
    for line in measured:
        if line["task"] not in TASKS or line["metric"] in TASKS[line["task"]].metrics:
            key = line["task"], line["init"], line["metric"]
            seeds.setdefault(key, []).append(float(line["value"]))
    shown = {}
    for task, grid, row in rows_of_tasks(grids):
        for metric, column in grid.metrics("measured"):
            if row[column].text not in ("–", "missing"):
                shown[task, row["init"].text, metric] = row[column]
    assert shown.keys() == seeds.keys()
    for key, entry in shown.items():
        std = f" ± {statistics.stdev(seeds[key]):.2f}" if len(seeds[key]) > 1 else ""
        assert entry.text == f"{statistics.fmean(seeds[key]):.2f}{std}"
        assert float(entry.value) == statistics.fmean(seeds[key])


def check_published(grids: list[Grid], published: list[dict]) -> None:
    """The published columns of the tasks' tables; a row may stand beside several inits."""
    wanted = {
        (line["task"], line["method"], line["epochs"] or "–", line["source"], line["metric"]): {
            (line["value"], line["value"], line["protocol"], " ".join(line["remark"].split()))
        }
        for line in published
    }
    shown: dict[tuple, set[tuple]] = {}
    for task, grid, row in rows_of_tasks(grids):
        for metric, column in grid.metrics("published"):
            if row[column].text == "–":
                continue
            key = task, *(row[name].text for name in ("method", "epochs", "source")), metric
            remark = row["notes"].text.partition("published: ")[2]
            said = row[column].text, row[column].value, row["protocol"].text, remark
            shown.setdefault(key, set()).add(said)
    assert shown == wanted


def rows_of_tasks(grids: list[Grid]) -> Iterable[tuple[str, Grid, dict[str, Entry]]]:
    for grid in grids:
        if grid.section.startswith("task-"):
            for row in grid.rows:
                yield grid.section.removeprefix("task-"), grid, row
