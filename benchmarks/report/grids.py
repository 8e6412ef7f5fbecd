"""Tables that a browser can sort: every cell has the text that is shown and the value behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import wording
from benchmarks.report.cells import Cell
from benchmarks.tables.build import Block, Row, Table

MEASURED, PUBLISHED, TEXT = "measured", "published", "text"


@dataclass(frozen=True)
class Column:
    """``kind`` says whose numbers stand in it, where there are numbers."""

    name: str
    kind: str = ""


@dataclass(frozen=True)
class Entry:
    """value: what it is sorted by, where that is not the text."""

    text: str
    value: float | str | None = None
    link: str = ""


@dataclass(frozen=True)
class Grid:
    """A table of a page, with the rows' names in the first column."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Entry]]


def block_grid(table: Table, block: Block) -> Grid:
    """Measured and published values side by side, in columns that say which they are."""
    columns = [Column("method", TEXT), Column("init", TEXT), Column("epochs"), Column("n")]
    columns += [Column(name, MEASURED) for name in block.names]
    if block.published:
        columns += [Column(name, PUBLISHED) for name in block.names]
        columns += [Column("protocol", TEXT), Column("source", TEXT)]
    if block.compared:
        columns.append(Column(f"{block.names[0]} measured − published"))
    columns.append(Column("remarks", TEXT))
    rows = [_row(table, block, row) for row in block.rows]
    return Grid(", ".join(block.metrics), columns, rows)


def _row(table: Table, block: Block, row: Row) -> list[Entry]:
    entries = [Entry(row.method), Entry(row.init or wording.NOTHING)]
    entries.append(Entry(wording.epochs(row), row.epochs))
    entries.append(Entry(wording.seeds(row), len(row.seeds) if row.init else None))
    for metric in block.metrics:
        value = row.measured.get(metric)
        entries.append(Entry(wording.measured(row, metric), value.mean if value else None))
    if block.published:
        values = row.published.values if row.published else {}
        entries += [Entry(wording.published(row, name), values.get(name)) for name in block.metrics]
        entries.append(Entry(wording.protocol(row, block)))
        entries.append(Entry(row.published.source if row.published else wording.NOTHING))
    if block.compared:
        metric = block.metrics[0]
        value = table.difference(row, metric)
        entries.append(Entry(wording.difference(table, row, metric), value))
    notes = wording.row_notes(row) if block.published else row.notes
    return [*entries, Entry("; ".join(notes))]


def test_grid(lines: Sequence[Sequence[str]]) -> Grid:
    """The comparisons between inits."""
    first, *others = wording.TEST_COLUMNS
    columns = [Column(first, TEXT), *map(Column, others)]
    return Grid("Between inits", columns, [[Entry(text) for text in line] for line in lines])


def cell_grid(cells: Sequence[Cell]) -> Grid:
    """One line per cell, which leads to all that is known of it."""
    columns = [Column(name, TEXT) for name in ("cell", "init", "task", "data")]
    columns += [Column("seed"), Column("state", TEXT), Column("metric", TEXT)]
    columns += [Column("value", MEASURED), Column("iterations"), Column("minutes")]
    return Grid("All cells", columns, [_cell_row(cell) for cell in cells])


def _cell_row(cell: Cell) -> list[Entry]:
    data = cell.data
    entries = [Entry(cell.name, link=cell.name), Entry(cell.init), Entry(cell.task)]
    entries.append(Entry(data.name if data else wording.NOTHING))
    entries += [Entry(str(cell.seed), cell.seed), Entry(cell.state)]
    result = cell.result
    if result is None:
        return entries + [Entry(wording.NOTHING)] * 4
    value = result.metrics[result.main_metric]
    entries += [Entry(result.main_metric), Entry(f"{value:.2f}", value)]
    entries.append(Entry(str(result.iterations), result.iterations))
    return [*entries, Entry(f"{result.seconds / 60:.1f}", result.seconds)]
