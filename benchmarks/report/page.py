"""One self-contained HTML page of all results."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.report import charts
from benchmarks.report.cells import DONE, FAILED, MISSING, UNFINISHED, Cell, as_lines, read_cells
from benchmarks.report.pictures import Picture, embed, embed_inits
from benchmarks.tables import build, wording
from benchmarks.tables.build import Column, numbers, words
from benchmarks.tables.collect import writing
from benchmarks.tables.published import TaskInfo, load_published
from benchmarks.tables.results import read_folder
from pretrain.runtime.config import ConfigError
from pretrain.runtime.files import write_text

STATES = {DONE: "✓", FAILED: "✗", UNFINISHED: "…", MISSING: "–"}


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
    tables, (pictures, left_out) = build.build_tables(found, tasks), embed(cells)
    inits = list(dict.fromkeys(cell.init for cell in cells))
    tasks = tasks | {table.task.name: table.task for table in tables}
    names = dict.fromkeys([table.task.name for table in tables])  # first, and in this order
    names |= dict.fromkeys(sorted({cell.task for cell in cells}))
    shown = [tasks.get(name) or TaskInfo(name, name, (), "") for name in names]
    pictures.sort(key=lambda picture: (list(names).index(picture.cell.task), picture.file))
    sample = _sample(pictures)
    counts = Counter(cell.state for cell in cells)
    said = {state: counts[state] for state in STATES if counts[state]}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    html = environment.get_template("page.html.jinja").render(
        cells=cells,
        inits=inits,
        tasks=shown,
        tables=tables,
        curves={task.name: _curves(cells, task, inits) for task in shown},
        trunks=embed_inits(folder, inits),
        sample=sample,
        pictures=[picture for picture in pictures if picture not in sample],
        left_out=left_out,
        problems=found.problems,
        states=STATES,
        count=said,
        details=_details(cells),
        cell_columns=_columns(cells),
        described=_described,
        draw_bars=charts.draw_bars,
        wording=wording,
    )
    output = folder / "report.html" if output is None else Path(output)
    with writing(output):
        write_text(output, html)
    states = ", ".join(f"{number} {state}" for state, number in said.items())
    print("; ".join(filter(None, [*map(wording.sentence, tables), f"{output}: {states}"])))
    return found.say_problems(folder)


def _sample(pictures: Sequence[Picture]) -> list[Picture]:
    """The first image, as every init sees it."""

    def whose(picture: Picture) -> tuple[str, str, int]:
        return picture.file, picture.cell.task, picture.cell.seed

    return [picture for picture in pictures if whose(picture) == whose(pictures[0])]


def _curves(cells: Sequence[Cell], task: TaskInfo, inits: Sequence[str]) -> list[charts.Chart]:
    """Of one task; cells on two data sets never share an axis."""
    by_data: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.task == task.name:
            name, sha256 = cell.data() or ("not recorded", None)
            said = f"{name}, fingerprint {build.short(sha256)}" if sha256 else name
            by_data.setdefault(said, []).append(cell)
    return [
        chart
        for data, same in sorted(by_data.items())
        for chart in charts.draw_curves(same, data, task.main_metric, inits, len(cells))
    ]


def _described(block: build.Block) -> list[Column]:
    """Its columns, and what is said of each row."""
    notes = [build.Entry("; ".join(block.notes(row))) for row in block.rows]
    return [*block.columns, Column("notes", notes, align="left")]


def _columns(cells: Sequence[Cell]) -> list[Column]:
    """One line per cell, whose name leads to all that is known of it."""
    results = [cell.result for cell in cells]
    values = [result and result.metrics[result.main_metric] for result in results]
    return [
        words("cell", [cell.name for cell in cells]),
        words("init", [cell.init for cell in cells]),
        words("task", [cell.task for cell in cells]),
        words("data", [(cell.data() or [None])[0] for cell in cells]),
        numbers("seed", [cell.seed for cell in cells]),
        words("state", [cell.state for cell in cells]),
        words("metric", [result and result.main_metric for result in results]),
        numbers("value", values, build.MEASURED, ".2f"),
        numbers("iterations", [result and result.iterations for result in results]),
        numbers("minutes", [result and result.seconds / 60 for result in results], form=".1f"),
    ]


def _details(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What is folded away below each cell's name; its config in full once per task."""
    first: dict[str, tuple[Cell, dict[str, str]]] = {}
    shown = []
    for cell in cells:
        record, settings = cell.record(), cell.settings()
        base, theirs = first.setdefault(cell.task, (cell, settings)) if settings else (cell, {})
        if base is not cell:
            keys = {**theirs, **settings}
            both = {key: (settings.get(key, "unset"), theirs.get(key, "unset")) for key in keys}
            settings = {
                k: f"{own} (there: {other})" for k, (own, other) in both.items() if own != other
            }
        values = record.pop("metrics", {})
        one = {"cell": cell, "base": None if base is cell else base}
        one |= {"config": as_lines(settings), "values": as_lines(values), "run": as_lines(record)}
        shown.append(one)
    return shown
