"""Tables as Markdown that also reads well in a terminal."""

import re
from collections.abc import Iterable, Sequence

import tabulate
from tabulate import DataRow, Line, TableFormat

from benchmarks.tables import wording
from benchmarks.tables.build import PUBLISHED, Block, Column, Entry, Table
from benchmarks.tables.results import Folder

INTRODUCTION = """# Results

`python -m benchmarks collect` writes this page from the `metrics.json` of every finished cell.

- **measured**: by this repository; mean ± sample standard deviation over n seeds, for n = 1 the
  value alone.
- **published**: printed by the source in the same row, and not measured here; the protocol's letter
  is explained below each table.
"""

FOLD, UNFOLD = "<details>", "</details>"
ROW = DataRow("| ", " | ", " |")
PIPES = TableFormat(None, Line("| ", "-", " | ", " |"), None, None, ROW, ROW, 0, None)
tabulate.MIN_PADDING = 0  # a column is as wide as its widest text; wide tables must fit a terminal


def page(tables: Sequence[Table], folder: Folder) -> str:
    """RESULTS.md: every table, then what is not in them."""
    parts = [INTRODUCTION, *(_section(table) for table in tables)]
    if missing := [f"`{cell}`" for cell in folder.missing]:
        parts.append(f"## Missing cells ({len(missing)})\n\n{_list(missing)}\n")
    if problems := [f"`{path}`: {_escape(said)}" for path, said in folder.problems.items()]:
        parts.append(f"## Not collected ({len(problems)})\n\n{_list(problems)}\n")
    return "\n".join(parts)


def unfolded(text: str) -> str:
    """A page for the terminal, where nothing folds: less what it folds away."""
    return re.sub(f"{FOLD}.*?{UNFOLD}\n+", "", text, flags=re.DOTALL)


def _section(table: Table) -> str:
    title = f"## {table.task.title} (`{table.task.name}`){_escape(wording.whose_data(table))}"
    parts = [title, _escape(wording.caption(table))]
    remarks = [f"**{warning}**" for warning in wording.warnings(table)]
    parts.append(" ".join(filter(None, [*remarks, wording.comparability(table)])))
    blocks = table.blocks()
    parts += _grids(table, [block for block in blocks if not block.folded])
    if tests := wording.tests(table):
        parts += ["### Between inits", tests[0], _grid(tests[1])]
    if folded := [block for block in blocks if block.folded]:
        parts += [f"{FOLD}<summary>{wording.FOLDED}</summary>", *_grids(table, folded), UNFOLD]
    return "\n\n".join(filter(None, parts)) + "\n"


def _grids(table: Table, blocks: Sequence[Block]) -> list[str]:
    """A grid for each block, then what is to be known of them."""
    parts = []
    notes = wording.numbered(n for block in blocks for row in block.rows for n in block.notes(row))
    for block in blocks:
        parts.append("### " + ", ".join(f"`{metric}`" for metric in block.metrics))
        if table.side_by_side and table.task.rows and not block.has(PUBLISHED):
            parts.append("No published values of these are known.")
        numbers = [", ".join(str(notes[note]) for note in block.notes(row)) for row in block.rows]
        if block.rows:
            parts.append(_grid([*block.columns, Column("notes", list(map(Entry, numbers)))]))
    if notes:
        legend = (f"{number}. {_escape(note)}" for note, number in notes.items())
        parts.append("Notes\n\n" + "\n".join(legend))
    if any(block.has(PUBLISHED) for block in blocks):
        parts.append(f"Protocols\n\n{_list(wording.protocols(table))}")
    return parts


def _grid(columns: Sequence[Column]) -> str:
    heads = [f"{column.name} {column.kind}".strip() for column in columns]
    return grid([heads, *zip(*([entry.text for entry in c.entries] for c in columns), strict=True)])


def grid(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first row its head; columns are aligned for the terminal."""
    head, *body = ([_escape(cell) for cell in row] for row in rows)
    return tabulate.tabulate(body, head, PIPES, disable_numparse=True)


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
