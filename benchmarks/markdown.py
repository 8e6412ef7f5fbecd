"""Tables as Markdown that also reads well in a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import wording
from benchmarks.results import CellName
from benchmarks.tables import Block, Row, Table
from benchmarks.wording import NOTHING

INTRODUCTION = """# Results

`python -m benchmarks collect` writes this page from the `metrics.json` of every finished cell.

- **measured**: by this repository; mean ± sample standard deviation over n seeds, for n = 1 the
  value alone.
- **published**: printed by the source in the same row, and not measured here; the protocol's letter
  is explained below each table.
"""


def page(tables: Sequence[Table], problems: Mapping[Path, str], missing: Sequence[CellName]) -> str:
    """RESULTS.md: every table, then what is not in them."""
    parts = [INTRODUCTION, *(_section(table) for table in tables)]
    if missing:
        lines = (f"`{cell}`" for cell in missing)
        parts.append(f"## Missing cells ({len(missing)})\n\n" + _list(lines))
    if problems:
        lines = (f"`{path}`: {_escape(problem)}" for path, problem in problems.items())
        parts.append(f"## Not collected ({len(problems)})\n\n" + _list(lines))
    return "\n".join(parts)


def _section(table: Table) -> str:
    title = f"## {table.task.title} (`{table.task.name}`){_escape(wording.whose_data(table))}"
    notes = wording.numbered(note for row in table.rows for note in wording.row_notes(row))
    parts = [title, _escape(" ".join(wording.caption(table)))]
    remarks = [f"**{warning}**" for warning in wording.warnings(table)]
    remarks += wording.comparability(table)
    parts += [" ".join(remarks)] if remarks else []
    for block in table.blocks():
        parts.append("### " + ", ".join(f"`{metric}`" for metric in block.metrics))
        if table.task.rows and not block.published:
            parts.append("No published values of these are known.")
        rows = [_cells(table, row, block, notes) for row in block.rows]
        parts += [grid([_columns(block), *rows])] if rows else []
    parts += _tests(table)
    legend = [f"{number}. {_escape(note)}" for note, number in notes.items()]
    parts += ["Notes\n\n" + "\n".join(legend)] if legend else []
    protocols = wording.protocols(table)
    parts += ["Protocols\n\n" + _list(protocols).rstrip()] if protocols else []
    return "\n\n".join(parts) + "\n"


def _columns(block: Block) -> list[str]:
    columns = ["init", "method", "epochs"]
    if block.measured:
        columns += ["n", *(f"{name} measured" for name in block.names)]
    if block.published:
        columns += [*(f"{name} published" for name in block.names), "protocol", "source"]
    if block.compared:
        columns.append(f"{block.names[0]} measured − published")
    return [*columns, "notes"]


def _cells(table: Table, row: Row, block: Block, notes: Mapping[str, int]) -> list[str]:
    """One line: ours, theirs, and where to read on."""
    cells = [row.init or NOTHING, row.method, wording.epochs(row)]
    if block.measured:
        cells += [wording.seeds(row), *(wording.measured(row, name) for name in block.metrics)]
    if block.published:
        cells += [wording.published(row, name) for name in block.metrics]
        cells += [wording.protocol(row, block), row.published.source if row.published else NOTHING]
    if block.compared:
        cells.append(wording.difference(table, row, block.metrics[0]))
    own = wording.row_notes(row) if block.published else row.notes
    return [*cells, ", ".join(str(notes[note]) for note in own)]


def _tests(table: Table) -> list[str]:
    """Whether inits differ by more than their seeds do."""
    tests = wording.tests(table)
    if tests is None:
        return []
    said, lines = tests
    return ["### Between inits", said, grid([wording.TEST_COLUMNS, *lines])]


def grid(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first row its head; columns are aligned for the terminal."""
    lines = [[_escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
