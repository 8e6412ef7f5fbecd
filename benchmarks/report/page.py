"""One self-contained HTML page of all results."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.report import charts
from benchmarks.report.cells import (
    DONE,
    FAILED,
    MISSING,
    UNFINISHED,
    Cell,
    as_lines,
    differences,
    read_cells,
)
from benchmarks.report.pictures import Picture, embed
from benchmarks.tables import wording
from benchmarks.tables.build import (
    MEASURED,
    Block,
    Column,
    Entry,
    Table,
    build_tables,
    numbers,
    short,
    words,
)
from benchmarks.tables.published import TaskInfo, load_published
from benchmarks.tables.results import read_folder
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_text

STATES = {DONE: "✓", FAILED: "✗", UNFINISHED: "…", MISSING: "–"}


@dataclass(frozen=True)
class Section:
    """All of one task: its tables and its curves, for each data set, and pictures."""

    task: str
    title: str
    tables: Sequence[Table]
    curves: Sequence[charts.Chart]
    pictures: Sequence[Picture]


def report(folder: str | Path, output: str | Path | None = None) -> int:
    """Write the page of the results below ``folder``; returns the exit code, as ``collect`` does.

    output: a file, in place of report.html in the folder. Raises ConfigError for a folder without
    cells, and where the page cannot be written.
    """
    folder = Path(folder)
    tasks = load_published()
    found = read_folder(folder, tasks)
    cells = read_cells(folder, found)
    if not cells:
        raise ConfigError(f"{folder}: no cell in it; python -m benchmarks run fills it")
    output = folder / "report.html" if output is None else Path(output)
    html = page(cells, build_tables(found, tasks), tasks, found.problems)
    try:
        write_text(output, html)
    except OSError as error:
        raise ConfigError(
            f"{output}: page not written ({error.strerror}). Make room there, or name another file "
            "with --output"
        ) from error
    print(f"{output}: {', '.join(f'{n} {state}' for state, n in _count(cells).items())}")
    for path, problem in found.problems.items():
        print(f"not collected: {folder / path}: {problem}", file=sys.stderr)
    return 1 if found.problems else 0


def page(
    cells: Sequence[Cell],
    tables: Sequence[Table],
    tasks: Mapping[str, TaskInfo],
    problems: Mapping[Path, str],
) -> str:
    """The HTML text."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    pictures, left_out = embed(cells)
    inits = list(dict.fromkeys(cell.init for cell in cells))
    return environment.get_template("page.html.jinja").render(
        cells=cells,
        inits=inits,
        states=STATES,
        count=_count(cells),
        sections=_sections(cells, tables, tasks, pictures, inits),
        problems=problems,
        left_out=left_out,
        shown=_details(cells),
        wording=wording,
        as_lines=as_lines,
        draw_bars=charts.draw_bars,
        block_columns=block_columns,
        test_columns=test_columns,
        cell_columns=cell_columns(cells),
    )


def _count(cells: Sequence[Cell]) -> dict[str, int]:
    count = Counter(cell.state for cell in cells)
    return {state: count[state] for state in STATES if count[state]}


def _sections(
    cells: Sequence[Cell],
    tables: Sequence[Table],
    tasks: Mapping[str, TaskInfo],
    pictures: Sequence[Picture],
    inits: Sequence[str],
) -> list[Section]:
    """Tasks with a table in the tables' order, then the others."""
    infos = dict(tasks) | {table.task.name: table.task for table in tables}
    names = dict.fromkeys([table.task.name for table in tables])
    names |= dict.fromkeys(sorted({cell.task for cell in cells}))
    sections = []
    for name in names:
        title, metric = (
            (infos[name].title, infos[name].main_metric) if name in infos else (name, "")
        )
        by_data: dict[str, list[Cell]] = {}  # cells on two data sets never share an axis
        for cell in cells:
            if cell.task == name:
                by_data.setdefault(_said(cell), []).append(cell)
        curves = [
            chart
            for data, same in sorted(by_data.items())
            for chart in charts.draw_curves(same, data, metric, inits, len(cells))
        ]
        shown = [picture for picture in pictures if picture.cell.task == name]
        shown.sort(key=lambda picture: picture.file)  # one image of several inits side by side
        own = [table for table in tables if table.task.name == name]
        sections.append(Section(name, title, own, curves, shown))
    return sections


def _said(cell: Cell) -> str:
    """What a cell is run on."""
    data = cell.data
    return f"{data.name}, fingerprint {short(data.sha256)}" if data else "not recorded"


def block_columns(block: Block) -> list[Column]:
    """Measured and published values side by side, and what is said of them."""
    notes = [Entry("; ".join(block.notes(row))) for row in block.rows]
    return [*block.columns, Column("notes", notes, align="left")]


def test_columns(lines: Iterable[Sequence[str]]) -> list[Column]:
    """The comparisons between inits."""
    columns = [list(map(Entry, texts)) for texts in zip(*lines, strict=True)]
    sides = ["left", *["right"] * 5]
    heads = zip(wording.TEST_COLUMNS, columns, sides, strict=True)
    return [Column(name, entries, align=side) for name, entries, side in heads]


def cell_columns(cells: Sequence[Cell]) -> list[Column]:
    """One line per cell, whose name leads to all that is known of it."""
    results = [cell.result for cell in cells]
    data = [cell.data for cell in cells]
    return [
        words("cell", [cell.name for cell in cells]),
        words("init", [cell.init for cell in cells]),
        words("task", [cell.task for cell in cells]),
        words("data", [one.name if one else None for one in data]),
        numbers("seed", [cell.seed for cell in cells]),
        words("state", [cell.state for cell in cells]),
        words("metric", [r.main_metric if r else None for r in results]),
        numbers(
            "value", [r.metrics[r.main_metric] if r else None for r in results], MEASURED, ".2f"
        ),
        numbers("iterations", [r.iterations if r else None for r in results]),
        numbers("minutes", [r.seconds / 60 if r else None for r in results], form=".1f"),
    ]


def _details(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What is folded away below each cell's name; its config in full once per task."""
    first: dict[str, tuple[Cell, dict[str, str]]] = {}
    shown = []
    for cell in cells:
        record, settings = cell.record, cell.settings
        base, theirs = first.setdefault(cell.task, (cell, settings)) if settings else (cell, {})
        same = base is cell
        environment = ("hardware", "git_commit", "packages")
        shown.append(
            {
                "cell": cell,
                "metrics": record.pop("metrics", {}),
                "environment": {key: record.pop(key, {}) for key in environment},
                "run": record,
                "config": as_lines(settings) if same else differences(settings, theirs),
                "base": None if same else base,
            }
        )
    return shown
