"""Tables as LaTeX for booktabs: measured and published columns apart, the best of each marked."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks import wording
from benchmarks.tables import Block, Row, Table
from benchmarks.wording import NOTHING

INTRODUCTION = r"""% Written by python -m benchmarks collect.
% \input it where tables may stand; the preamble needs \usepackage{booktabs}.
"""
BEGIN = "\\begin{table*}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}"
END = "\\end{table*}\n"
MEASURED = "Measured: by this repository, mean ± sample standard deviation over n seeds."
PUBLISHED = "Published: as printed by the source in the notes, and not measured here."
DIFFERENCE = "Difference: measured − published."
MARKS = (
    "Bold is the highest value of a column and underlined the second highest; "
    "equal ones share the mark."
)
UNMARKED = "Measured values have no marks, since their rows were not all run under one config."
PROTOCOLS = (
    "Published rows of different protocols do not compare, though the marks are over all of them."
)
TEST_ROWS = 40  # of a float: more do not fit a page
SPECIAL = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "–": "--"}
    | {"[": "{[}", "*": "{*}"}  # arguments of the \\ before them
)


@dataclass(frozen=True)
class Column:
    """One column, cells escaped; ``kind`` is written over all columns that share it."""

    head: str
    align: str
    cells: Sequence[str]
    kind: str = ""


def page(tables: Iterable[Table]) -> str:
    """results.tex: a float for each block of metrics, and one or more for the tests of inits."""
    parts = [INTRODUCTION]
    for task, own in itertools.groupby(tables, key=lambda table: table.task.name):
        label = "tab:" + re.sub(r"[^A-Za-z0-9_-]", "-", task)
        floats = (one for table in own for one in _floats(table))
        for number, (caption, body) in enumerate(floats, start=1):
            head = rf"\caption{{{caption}}}", rf"\label{{{label}:{number}}}"
            parts.append("\n".join([BEGIN, *head, body, END]))
    return "\n".join(parts)


def _floats(table: Table) -> list[tuple[str, str]]:
    """Caption and body of each."""
    floats = [_block(table, block) for block in table.blocks() if block.rows]
    tests = wording.tests(table)
    if tests is not None:
        said, lines = tests
        parts = [lines[start : start + TEST_ROWS] for start in range(0, len(lines), TEST_ROWS)]
        for number, part in enumerate(parts, start=1):
            which = f" Part {number} of {len(parts)}." if len(parts) > 1 else ""
            cells = [[text(cell) for cell in column] for column in zip(*part, strict=True)]
            heads = zip(wording.TEST_COLUMNS, "lrrrrr", cells, strict=True)
            columns = [Column(head, align, own) for head, align, own in heads]
            floats.append((f"{_title(table)}: {text(said + which)}", _tabular(columns)))
    return floats


def _title(table: Table) -> str:
    name = rf"\texttt{{{text(table.task.name)}}}"
    return f"{text(table.task.title)} ({name}){text(wording.whose_data(table))}"


def _block(table: Table, block: Block) -> tuple[str, str]:
    letters = {wording.protocol(row, block) for row in block.rows} - {NOTHING}
    sentences = [
        *wording.caption(table),
        *wording.warnings(table),
        *wording.comparability(table),
        *([MEASURED] if block.measured else []),
        *([PUBLISHED] if block.published else []),
        *([DIFFERENCE] if block.compared else []),
        *([MARKS] if block.published or table.one_config else []),
        *([UNMARKED] if block.measured and not table.one_config else []),
        *([PROTOCOLS] if len(letters) > 1 else []),
    ]
    notes = wording.numbered(note for row in block.rows for note in _notes(row, block))
    below = [text(f"({number}) {note}.") for note, number in notes.items()]
    if block.published:
        below += [text(f"Protocol {line}.") for line in wording.protocols(table)]
    body = _tabular(_columns(table, block, notes))
    if below:
        body += "\n" + "\n".join([r"\par\smallskip\raggedright", *(rf"{s}\par" for s in below)])
    metrics = text(", ".join(block.metrics))
    return f"{_title(table)}: {metrics}. {text(' '.join(sentences))}", body


def _notes(row: Row, block: Block) -> list[str]:
    """The source is one of them: it has no room of its own."""
    if not (block.published and row.published):
        return list(row.notes)
    return [f"published by {row.published.source}", *wording.row_notes(row)]


def _columns(table: Table, block: Block, notes: Mapping[str, int]) -> list[Column]:
    rows = block.rows
    columns = [
        Column("method", "l", [text(row.method) for row in rows]),
        Column("epochs", "r", [text(wording.epochs(row)) for row in rows]),
    ]
    if block.measured:
        columns.insert(0, Column("init", "l", [text(row.init or NOTHING) for row in rows]))
        columns.append(Column("n", "r", [text(wording.seeds(row)) for row in rows]))
        for metric, name in zip(block.metrics, block.names, strict=True):
            cells = [wording.measured(row, metric) for row in rows]
            cells = _marked(cells) if table.one_config else [text(cell) for cell in cells]
            columns.append(Column(name, "r", cells, "measured"))
    if block.published:
        for metric, name in zip(block.metrics, block.names, strict=True):
            cells = _marked([wording.published(row, metric) for row in rows])
            columns.append(Column(name, "r", cells, "published"))
        letters = [text(wording.protocol(row, block)) for row in rows]
        columns.append(Column("protocol", "l", letters))
    if block.compared:
        metric = block.metrics[0]
        cells = [text(wording.difference(table, row, metric)) for row in rows]
        columns.append(Column(block.names[0], "r", cells, "difference"))
    numbers = [", ".join(str(notes[note]) for note in _notes(row, block)) for row in rows]
    return [*columns, Column("notes", "l", numbers)]


def _marked(cells: Sequence[str]) -> list[str]:
    """``12.50 ± 0.25`` with its first number in bold or underlined, as it ranks when printed."""
    parts = [cell.partition(" ") for cell in cells]
    values = [float(n) if re.fullmatch(r"-?[\d.]+", n) else None for n, _, _ in parts]
    present = [value for value in values if value is not None]
    order = sorted(set(present), reverse=True) if len(present) > 1 else []
    marks = dict(zip(order, (r"\textbf", r"\underline"), strict=False))
    return [
        rf"{marks[value]}{{{number}}}{space}{text(rest)}" if value in marks else text(cell)
        for cell, (number, space, rest), value in zip(cells, parts, values, strict=True)
    ]


def _tabular(columns: Sequence[Column]) -> str:
    lines = [rf"\begin{{tabular}}{{{''.join(column.align for column in columns)}}}", r"\toprule"]
    over, rules, start = [], [], 1
    for kind, group in itertools.groupby(columns, key=lambda column: column.kind):
        width = len(list(group))
        over += [rf"\multicolumn{{{width}}}{{c}}{{{kind}}}"] if kind else [""] * width
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if kind else []
        start += width
    if rules:
        lines += [_line(over), "".join(rules)]
    lines += [_line([text(column.head) for column in columns]), r"\midrule"]
    lines += map(_line, zip(*(column.cells for column in columns), strict=True))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def text(words: str) -> str:
    """``words`` as LaTeX prints them, in one line; other characters than these are as they are."""
    words = re.sub(r"^-(?=\d)", "−", " ".join(words.split()))  # a minus is no hyphen
    return words.translate(SPECIAL)
