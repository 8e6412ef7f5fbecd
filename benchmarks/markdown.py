"""Tables as Markdown that also reads well in a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.published import PublishedRow, by_group, group_of
from benchmarks.tables import Measured, Row, Table, short

NOTHING = "–"
METRICS_SIDE_BY_SIDE = 3  # each takes two columns; more do not fit a terminal

INTRODUCTION = """# Results

`python -m benchmarks collect` writes this page from the `metrics.json` of every finished cell.

- **measured**: by this repository; mean ± sample standard deviation over n seeds, for n = 1 the
  value alone.
- **published**: printed by the source in the same row, and not measured here; the protocol's letter
  is explained below each table.
"""


def page(tables: Sequence[Table], problems: Mapping[Path, str], missing: Sequence[str]) -> str:
    """RESULTS.md: every table, then what is not in them."""
    parts = [INTRODUCTION, *(_section(table) for table in tables)]
    if missing:
        lines = (f"`{name}`" for name in missing)
        parts.append(f"## Missing cells ({len(missing)})\n\n" + _list(lines))
    if problems:
        lines = (f"`{path}`: {_escape(problem)}" for path, problem in problems.items())
        parts.append(f"## Not collected ({len(problems)})\n\n" + _list(lines))
    return "\n".join(parts)


def _section(table: Table) -> str:
    title = f"## {table.task.title} (`{table.task.name}`)"
    if not table.data.official:
        title += f": on {_escape(table.data.name)}, not the official data"
    notes = _number_notes(table)
    parts = [title, _caption(table)]
    for metrics in _side_by_side(table.task.metrics):
        parts.append("### " + ", ".join(f"`{metric}`" for metric in metrics))
        published = any(_publishes(row.published, metrics) for row in table.rows)
        if table.task.rows and not published:
            parts.append("No published values of these are known.")
        shown = [row for row in table.rows if row.init or _publishes(row.published, metrics)]
        rows = [_cells(table, row, metrics, published, notes) for row in shown]
        parts.append(grid([_columns(table, metrics, published), *rows]))
    legend = [f"{number}. {_escape(note)}" for note, number in notes.items()]
    parts += ["Notes\n\n" + "\n".join(legend)] if legend else []
    parts += _protocols(table)
    return "\n\n".join(parts) + "\n"


def _side_by_side(metrics: Sequence[str]) -> list[list[str]]:
    """The metrics of each table: of one group, and few enough for a terminal."""
    return [
        group[start : start + METRICS_SIDE_BY_SIDE]
        for group in by_group(metrics).values()
        for start in range(0, len(group), METRICS_SIDE_BY_SIDE)
    ]


def _publishes(published: PublishedRow | None, metrics: Sequence[str]) -> bool:
    return published is not None and any(metric in published.values for metric in metrics)


def _caption(table: Table) -> str:
    data = table.data
    once = table.said_once
    sentences = [
        f"Data: {data.name}, {data.train_images} training and {data.test_images} test images, "
        f"fingerprint {short(data.sha256)}.",
        f"Iterations: {once(lambda result: result.iterations)}.",
        f"Images per batch: {once(lambda result: result.images_per_batch)}.",
        f"Hardware: {once(lambda result: result.hardware)}.",
        f"Config: {once(lambda result: short(result.config_sha256))}.",
    ]
    remarks = []
    if len({result.config_sha256 for result in table.results}) > 1:
        remarks.append("**The rows were not all run under one config.**")
    if table.shows_the_road_only:
        metric = table.task.main_metric
        remarks.append(f"**Every {metric} is under 1: this run shows the road, not quality.**")
    if not data.official:
        remarks.append(
            "Measured values do not compare with published ones here; no difference is computed."
        )
    elif table.task.rows and not any(map(table.compares, table.task.metrics)):
        remarks.append(
            f"No difference is computed: no published row is known to be {table.task.protocol}'s."
        )
    elif table.task.rows and table.off_schedule:
        schedule = table.task.schedule
        remarks.append(
            f"No difference is computed where the schedule is not protocol {table.task.protocol}'s "
            f"({schedule.iterations} iterations of {schedule.images_per_batch} images)."
        )
    return _escape(" ".join(sentences)) + ("\n\n" + " ".join(remarks) if remarks else "")


def _columns(table: Table, metrics: Sequence[str], published: bool) -> list[str]:
    names = [metric.removeprefix(f"{group_of(metric)}/") for metric in metrics]
    columns = ["init", "method", "epochs", "n", *(f"{name} measured" for name in names)]
    if published:
        columns += [*(f"{name} published" for name in names), "protocol", "source"]
        if table.compares(metrics[0]):
            columns.append(f"{names[0]} measured − published")
    return [*columns, "notes"]


def _cells(
    table: Table, row: Row, metrics: Sequence[str], published: bool, notes: Mapping[str, int]
) -> list[str]:
    """One line: ours, theirs, and where to read on."""
    cells = [row.init or NOTHING, row.method, _number(row.epochs), _seeds(row)]
    cells += [_measured(row.measured.get(metric)) for metric in metrics]
    if published:
        theirs = row.published
        cells += [
            str(theirs.values.get(metric, NOTHING)) if theirs else NOTHING for metric in metrics
        ]
        cells.append(theirs.protocols.get(metrics[0], NOTHING) if theirs else NOTHING)
        cells.append(theirs.source if theirs else NOTHING)
        if table.compares(metrics[0]):
            difference = table.difference(row, metrics[0])
            cells.append(NOTHING if difference is None else f"{difference:+.2f}")
    own = _notes(row) if published else row.notes
    cells.append(", ".join(str(notes[note]) for note in own))
    return cells


def grid(rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first row its head; columns are aligned for the terminal."""
    lines = [[_escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = (
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _protocols(table: Table) -> list[str]:
    if not table.task.rows:
        return []
    used = {letter for row in table.task.rows for letter in row.protocols.values()}
    used.add(table.task.protocol)
    lines = [
        f"{letter}{' (as in configs/transfer)' if letter == table.task.protocol else ''}: {meaning}"
        for letter, meaning in table.task.protocols.items()
        if letter in used
    ]
    return ["Protocols\n\n" + _list(lines).rstrip()]


def _number_notes(table: Table) -> dict[str, int]:
    notes = dict.fromkeys(note for row in table.rows for note in _notes(row))
    return {note: number for number, note in enumerate(notes, start=1)}


def _notes(row: Row) -> list[str]:
    remark = row.published.remark if row.published else ""
    return [*row.notes, *([f"published: {remark}"] if remark else [])]


def _measured(value: Measured | None) -> str:
    if value is None:
        return NOTHING
    return f"{value.mean:.2f}" + (f" ± {value.std:.2f}" if value.std is not None else "")


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:g}"


def _seeds(row: Row) -> str:
    if row.init is None:
        return NOTHING
    wanted = len(row.seeds) + len(row.missing)
    return f"{len(row.seeds)} of {wanted}" if row.missing else str(len(row.seeds))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _escape(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
