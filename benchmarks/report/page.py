"""One self-contained HTML page of all results; needs neither torch nor Detectron2."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import wording
from benchmarks.tables.published import PUBLISHED_YAML, TaskInfo, load_published
from benchmarks.report import cells as of_cells
from benchmarks.report import charts, grids
from benchmarks.report.cells import Cell, read_cells
from benchmarks.report.pictures import Picture, embed
from benchmarks.tables.results import ResultError, read_matrix, read_results, with_epochs
from benchmarks.tables.build import Table, build_tables, short
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_text

STATES = {of_cells.DONE: "✓", of_cells.FAILED: "✗", of_cells.UNFINISHED: "…", of_cells.MISSING: "–"}


@dataclass(frozen=True)
class Section:
    """All of one task: its tables and its curves, for each data set, and pictures."""

    task: str
    title: str
    tables: Sequence[Table]
    curves: Sequence[charts.Curves]
    inits: set[str]  # that have curves
    pictures: Sequence[Picture]


def report(folder: str | Path, output: str | Path | None = None) -> int:
    """Write the page of the results below ``folder``; returns the exit code, as ``collect`` does.

    output: a file, in place of report.html in the folder. Raises ConfigError for a folder without
    cells, and where the page cannot be written.
    """
    folder = Path(folder)
    tasks = load_published(PUBLISHED_YAML)
    results, problems = read_results(folder, tasks)
    matrix = None
    try:
        matrix = read_matrix(folder)
    except ResultError as error:
        problems[Path("matrix.json")] = str(error)
    results = [with_epochs(result, matrix) for result in results]
    cells = read_cells(folder, results, problems, matrix)
    if not cells:
        raise ConfigError(f"{folder}: no cell in it; python -m benchmarks run fills it")
    output = folder / "report.html" if output is None else Path(output)
    html = page(cells, build_tables(results, tasks, matrix), tasks, problems)
    try:
        write_text(output, html)
    except OSError as error:
        raise ConfigError(
            f"{output}: page not written ({error.strerror}). Make room there, or name another file "
            "with --output"
        ) from error
    print(f"{output}: {', '.join(f'{n} {state}' for state, n in _count(cells).items())}")
    for path, problem in problems.items():
        print(f"not collected: {folder / path}: {problem}", file=sys.stderr)
    return 1 if problems else 0


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
    environment.globals |= {"wording": wording, "grids": grids, "charts": charts}
    environment.globals |= {"as_lines": of_cells.as_lines, "bars_of": charts.draw_bars}
    pictures, left_out = embed(cells)
    return environment.get_template("page.html.jinja").render(
        cells=cells,
        inits=list(dict.fromkeys(cell.init for cell in cells)),
        states=STATES,
        count=_count(cells),
        sections=_sections(cells, tables, tasks, pictures),
        problems=problems,
        left_out=left_out,
        shown=_details(cells),
    )


def _count(cells: Sequence[Cell]) -> dict[str, int]:
    count = Counter(cell.state for cell in cells)
    return {state: count[state] for state in STATES if count[state]}


def _sections(
    cells: Sequence[Cell],
    tables: Sequence[Table],
    tasks: Mapping[str, TaskInfo],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Tasks with a table in the tables' order, then the others."""
    infos = dict(tasks) | {table.task.name: table.task for table in tables}
    names = dict.fromkeys([table.task.name for table in tables])
    names |= dict.fromkeys(sorted({cell.task for cell in cells}))
    sections = []
    for name in names:
        own, info = [cell for cell in cells if cell.task == name], infos.get(name)
        metric = info.main_metric if info else ""
        curves = [
            chart
            for data, same in _by_data(own).items()
            for chart in charts.draw_curves(same, data, metric, len(cells))
        ]
        shown = [picture for picture in pictures if picture.cell.task == name]
        shown.sort(key=lambda picture: picture.file)  # one image of several inits side by side
        of_task = [table for table in tables if table.task.name == name]
        inits = {line.cell.init for chart in curves for line in chart.lines}
        title = info.title if info else name
        sections.append(Section(name, title, of_task, curves, inits, shown))
    return sections


def _by_data(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells that share an axis, below the name of their data."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        data = cell.data
        name = f"{data.name}, fingerprint {short(data.sha256)}" if data else "not recorded"
        found.setdefault(name, []).append(cell)
    return dict(sorted(found.items()))


def _details(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What is folded away below each cell's name; its config in full once per task."""
    first: dict[str, tuple[Cell, dict[str, str]]] = {}
    shown = []
    for cell in cells:
        record, settings = cell.record(), cell.settings()
        base, theirs = first.setdefault(cell.task, (cell, settings)) if settings else (cell, {})
        same = base is cell
        config = of_cells.as_lines(settings) if same else of_cells.differences(settings, theirs)
        shown.append(
            {
                "cell": cell,
                "command": cell.command(),
                "metrics": record.pop("metrics", {}),
                "environment": {key: record.pop(key, {}) for key in of_cells.ENVIRONMENT},
                "run": record,
                "config": config,
                "base": None if same else base,
            }
        )
    return shown
