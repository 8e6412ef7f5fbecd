"""Tables as LaTeX for booktabs: measured and published columns apart, the best of each marked."""

import itertools
import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from benchmarks.tables import wording
from benchmarks.tables.build import MEASURED, PUBLISHED, Block, Column, Entry, Row, Table

INTRODUCTION = r"""% Written by python -m benchmarks collect.
% \input it where tables may stand; the preamble needs \usepackage{booktabs}.
"""
BEGIN = "\\begin{table*}\n\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}"
END = "\\end{table*}\n"
OURS = "Measured: by this repository, mean ± sample standard deviation over n seeds."
THEIRS = (
    "Published: as printed by the source in the notes, and not measured here; rows of different "
    "protocols do not compare, though the marks are over all of them."
)
MARKS = (
    "Bold is the highest value of a column and underlined the second highest; equal ones share the "
    "mark. Measured values have none where their rows were not all run under one config."
)
SPECIAL = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "–": "--"}
    | {"[": "{[}", "*": "{*}"}  # arguments of the \\ before them
)


def page(tables: Iterable[Table]) -> str:
    """results.tex: a float for each block of metrics, and one for the tests of inits."""
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
        if block.rows and not block.folded:
            said = text(f"{', '.join(block.metrics)}. {_caption(table, block)}")
            floats.append((f"{title}: {said}", _body(table, block)))
    if tests := wording.tests(table):
        floats.append((f"{title}: {text(tests[0])}", _tabular(tests[1], table)))
    return floats


def _caption(table: Table, block: Block) -> str:
    said = [wording.caption(table), *wording.warnings(table), wording.comparability(table)]
    said += [OURS] if block.has(MEASURED) else []
    said += [THEIRS] if block.has(PUBLISHED) else []
    return " ".join(filter(None, [*said, MARKS]))


def _body(table: Table, block: Block) -> str:
    """The columns, and below them the notes: a source has no room beside its values."""
    left_out = ("source",) if block.has(MEASURED) else ("source", "init")
    columns = [column for column in block.columns if column.name not in left_out]
    notes = wording.numbered(note for row in block.rows for note in _notes(row, block))
    numbers = [", ".join(str(notes[n]) for n in _notes(row, block)) for row in block.rows]
    columns.append(Column("notes", list(map(Entry, numbers)), align="left"))
    body = _tabular(columns, table)
    below = [f"({number}) {note}." for note, number in notes.items()]
    if block.has(PUBLISHED):
        below += [f"Protocol {line}." for line in wording.protocols(table)]
    if below:
        body += "\n\\par\\smallskip\\raggedright"
    return "\n".join([body, *(rf"{text(line)}\par" for line in below)])


def _notes(row: Row, block: Block) -> list[str]:
    source = row.published.source if block.has(PUBLISHED) else ""
    return [*([f"published by {source}"] if source else []), *block.notes(row)]


def _cells(column: Column, table: Table) -> list[str]:
    """Escaped, the highest in bold and the second highest underlined, as they rank when printed."""
    marked = column.kind == PUBLISHED or (column.kind == MEASURED and table.one_config)
    printed = [float(e.text.split()[0]) for e in column.entries if marked and e.value is not None]
    order = sorted(set(printed), reverse=True) if len(printed) > 1 else []
    marks = dict(zip(order, (r"\textbf", r"\underline"), strict=False))
    cells = []
    for entry in column.entries:
        number, space, rest = entry.text.partition(" ")
        mark = marks.get(float(number)) if marks and entry.value is not None else None
        cells.append(f"{mark}{{{number}}}{space}{text(rest)}" if mark else text(entry.text))
    return cells


def _tabular(columns: Sequence[Column], table: Table) -> str:
    """A kind is written over all columns that share it."""
    over, rules, start = [], [], 1
    for kind, group in itertools.groupby(column.kind for column in columns):
        width = len(list(group))
        over += [rf"\multicolumn{{{width}}}{{c}}{{{text(kind)}}}"] if kind else [""] * width
        rules += [rf"\cmidrule(lr){{{start}-{start + width - 1}}}"] if kind else []
        start += width
    spans = f"\n{' & '.join(over)} \\\\\n{''.join(rules)}" if rules else ""
    # latex_raw leaves what is escaped as it is; its three rules become those of booktabs.
    tex = tabulate(
        list(zip(*(_cells(column, table) for column in columns), strict=True)),
        [text(column.name) for column in columns],
        "latex_raw",
        disable_numparse=True,
        colalign=[column.align for column in columns],
    )
    for rule in (rf"\toprule{spans}", r"\midrule", r"\bottomrule"):
        tex = tex.replace(r"\hline", rule, 1)
    return tex


def text(words: str) -> str:
    """``words`` as LaTeX prints them, in one line; other characters than these are as they are."""
    words = re.sub(r"^-(?=\d)", "−", " ".join(words.split()))  # a minus is no hyphen
    return words.translate(SPECIAL)
