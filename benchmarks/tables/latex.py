"""Tables as LaTeX for booktabs: measured and published columns apart, the best of each marked."""

import itertools
import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from benchmarks.tables import wording
from benchmarks.tables.build import MEASURED, NOTHING, PUBLISHED, Block, Column, Row, Table

INTRODUCTION = r"""% Written by python -m benchmarks collect.
% \input it where tables may stand; the preamble needs \usepackage{booktabs}.
"""
BEGIN = "\\begin{table*}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}"
END = "\\end{table*}\n"
OURS = "Measured: by this repository, mean ± sample standard deviation over n seeds."
THEIRS = "Published: as printed by the source in the notes, and not measured here."
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
    name = rf"\texttt{{{text(table.task.name)}}}"
    title = f"{text(table.task.title)} ({name}){text(wording.whose_data(table))}"
    floats = []
    for block in table.blocks():
        if block.rows:
            said = text(f"{', '.join(block.metrics)}. {_caption(table, block)}")
            floats.append((f"{title}: {said}", _body(table, block)))
    said, lines = wording.tests(table) or ("", [])
    parts = [lines[start : start + TEST_ROWS] for start in range(0, len(lines), TEST_ROWS)]
    for number, part in enumerate(parts, start=1):
        which = f" Part {number} of {len(parts)}." if len(parts) > 1 else ""
        cells = ([text(cell) for cell in line] for line in part)
        body = _tabular(wording.TEST_COLUMNS, cells, ["left", *["right"] * 5])
        floats.append((f"{title}: {text(said + which)}", body))
    return floats


def _caption(table: Table, block: Block) -> str:
    published, measured = block.has(PUBLISHED), block.has(MEASURED)
    letters = {
        entry.text
        for column in block.columns
        if column.name == "protocol"
        for entry in column.entries
        if entry.text != NOTHING
    }
    sentences = {
        OURS: measured,
        THEIRS: published,
        MARKS: published or table.one_config,
        UNMARKED: measured and not table.one_config,
        PROTOCOLS: len(letters) > 1,
    }
    said = [wording.caption(table), *wording.warnings(table), *wording.comparability(table)]
    return " ".join([*said, *(sentence for sentence, holds in sentences.items() if holds)])


def _body(table: Table, block: Block) -> str:
    """The columns, and below them the notes: a source has no room beside its values."""
    left_out = ("source",) if block.has(MEASURED) else ("source", "init")
    columns = [column for column in block.columns if column.name not in left_out]
    notes = wording.numbered(note for row in block.rows for note in _notes(row, block))
    cells = [_cells(column, table) for column in columns]
    cells.append([", ".join(str(notes[n]) for n in _notes(row, block)) for row in block.rows])
    body = _tabular(
        [*(column.name for column in columns), "notes"],
        zip(*cells, strict=True),
        [*(column.align for column in columns), "left"],
        [*(column.kind for column in columns), ""],
    )
    below = [f"({number}) {note}." for note, number in notes.items()]
    if block.has(PUBLISHED):
        below += [f"Protocol {line}." for line in wording.protocols(table)]
    if below:
        body += "\n\\par\\smallskip\\raggedright"
    return "\n".join([body, *(rf"{text(line)}\par" for line in below)])


def _notes(row: Row, block: Block) -> list[str]:
    source = row.published.source if row.published and block.has(PUBLISHED) else ""
    return [*([f"published by {source}"] if source else []), *block.notes(row)]


def _cells(column: Column, table: Table) -> list[str]:
    """Escaped; the best of a column is marked, as it ranks when printed."""
    texts = [entry.text for entry in column.entries]
    if column.kind == PUBLISHED or (column.kind == MEASURED and table.one_config):
        return _marked(texts)
    return [text(cell) for cell in texts]


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


def _tabular(
    heads: Iterable[str],
    rows: Iterable[Sequence[str]],
    align: Sequence[str],
    kinds: Iterable[str] = (),
) -> str:
    """rows: escaped; kinds: written over all columns that share one, where there is one."""
    over, rules, start = [], [], 1
    for kind, group in itertools.groupby(kinds):
        width = len(list(group))
        over += [rf"\multicolumn{{{width}}}{{c}}{{{text(kind)}}}"] if kind else [""] * width
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if kind else []
        start += width
    spans = f"\n{' & '.join(over)} \\\\\n{''.join(rules)}" if rules else ""
    # latex_raw leaves what is escaped as it is; its three rules become those of booktabs.
    heads = [text(head) for head in heads]
    table = tabulate(rows, heads, "latex_raw", disable_numparse=True, colalign=align)
    for rule in (rf"\toprule{spans}", r"\midrule", r"\bottomrule"):
        table = table.replace(r"\hline", rule, 1)
    return table


def text(words: str) -> str:
    """``words`` as LaTeX prints them, in one line; other characters than these are as they are."""
    words = re.sub(r"^-(?=\d)", "−", " ".join(words.split()))  # a minus is no hyphen
    return words.translate(SPECIAL)
