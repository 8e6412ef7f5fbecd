"""results.tex: what it holds, what it marks, and that LaTeX can read it."""

import re
from dataclasses import dataclass

import pytest

from benchmarks.tables import build, latex
from benchmarks.tables.collect import collect
from benchmarks.tables.published import load_published
from tests.benchmarks.tables.cells import OFFICIAL, VALUES, write_cell, write_clove
from tests.benchmarks.tables.pages import RANDOM, write_matrix
from tests.benchmarks.tables.test_published import PAPER_TASKS, paper_values


@dataclass
class Float:
    label: str
    caption: str
    rows: list[dict[str, str]]  # of its table, by "kind head", as ``published AP50``
    notes: dict[str, str]

    def row(self, **cells: str) -> dict[str, str]:
        (found,) = [row for row in self.rows if cells.items() <= row.items()]
        return found


def group(tex: str, command: str) -> str:
    """The argument of ``command``, up to the brace that ends it."""
    start = tex.index(f"\\{command}{{") + len(command) + 2
    depth = 1
    for match in re.finditer(r"\\.|[{}]", tex[start:], re.S):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return tex[start : start + match.start()]
    raise AssertionError(f"{command} is not closed")


def cells_of(line: str, columns: int) -> list[str]:
    r"""The cells of a line, one that spans several repeated; checks that it is whole."""
    assert line.endswith(r" \\")
    cells = []
    for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\")):
        span = re.fullmatch(r"\\multicolumn\{(\d+)\}\{c\}\{(.+)\}", cell.strip())
        cells += [span[2]] * int(span[1]) if span else [cell.strip()]
    assert len(cells) == columns
    return cells


def floats(folder) -> list[Float]:
    """All of results.tex, checked on the way as far as one can without LaTeX."""
    tex = (folder / "results.tex").read_text()
    environments = []
    for what, name in re.findall(r"\\(begin|end)\{(.*?)\}", tex):
        environments.append(name) if what == "begin" else None
        assert what == "begin" or environments.pop() == name
    assert environments == []
    parts = re.findall(r"\\begin\{table\*\}\n(.*?)\\end\{table\*\}", tex, re.S)
    found = [read_float(part) for part in parts]
    assert len({one.label for one in found}) == len(found)
    return found


def read_float(tex: str) -> Float:
    spec, body, below = re.fullmatch(
        r".*\\begin\{tabular\}\{([lr]+)\}\n\\toprule\n(.*)\\bottomrule\n\\end\{tabular\}\n(.*)",
        tex,
        re.S,
    ).groups()
    caption, label = group(tex, "caption"), group(tex, "label")
    for text in (caption, body, below):
        check_text(text)
    head, lines = (part.strip().splitlines() for part in body.split("\\midrule\n"))
    names = cells_of(head[-1], len(spec))
    if len(head) > 1:
        over, rules, _ = head
        kinds = cells_of(over, len(spec))
        spans = [tuple(map(int, pair)) for pair in re.findall(r"\{(\d+)-(\d+)\}", rules)]
        under = {number for first, last in spans for number in range(first, last + 1)}
        assert under == {number for number, kind in enumerate(kinds, 1) if kind}
        names = [f"{kind} {name}".strip() for kind, name in zip(kinds, names, strict=True)]
    assert len(set(names)) == len(names)
    rows = [dict(zip(names, cells_of(line, len(spec)), strict=True)) for line in lines]
    notes = dict(re.findall(r"^\((\d+)\) (.*)\.\\par$", below, re.M))
    return Float(label, caption, rows, notes)


def check_text(tex: str) -> None:
    """Braces and dollars in pairs, and no character that LaTeX takes for a command."""
    depth = dollars = 0
    for token in re.findall(r"\\.|.", tex, re.S):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0
        dollars += token == "$"
        assert token not in "%#_^~"
    assert depth == dollars % 2 == 0


def plain(cell: str) -> str:
    return re.sub(r"\\(?:textbf|underline)\{(.*?)\}", r"\1", cell)


def test_published_only_tables_hold_the_papers_values_table_by_table(tmp_path):
    write_matrix(tmp_path, list(load_published()), {}, [])
    assert collect(tmp_path) == 0
    printed: dict[str, dict[tuple, str]] = {}
    for one in floats(tmp_path):
        task = one.label.split(":")[1]
        prefix = re.search(r": (\S+)/AP", one.caption)[1]
        for row in one.rows:
            assert not any(name == "init" or name.startswith("measured") for name in row)
            sources = [one.notes[number] for number in row["notes"].split(", ")]
            if not sources[0].startswith("published by CLoVE"):
                continue
            epochs = None if row["epochs"] == "--" else int(row["epochs"])
            for name, value in row.items():
                if name.startswith("published") and value != "--":
                    metric = f"{prefix}/{name.split()[1]}"
                    printed.setdefault(task, {})[row["method"], epochs, metric] = plain(value)
    assert printed.keys() == set(PAPER_TASKS.values())
    for task, values in printed.items():
        assert values == {key[1:]: value for key, value in paper_values().items() if key[0] == task}
    assert sum(map(len, printed.values())) == 199


@pytest.mark.parametrize(
    ("values", "marked"),
    [
        ([1.0, 2.0, 3.0], ["1.00", r"\underline{2.00}", r"\textbf{3.00}"]),
        ([9.0, 10.0], [r"\underline{9.00}", r"\textbf{10.00}"]),
        ([2.0, 2.001, 1.0], [r"\textbf{2.00}", r"\textbf{2.00}", r"\underline{1.00}"]),
        ([3.0, 2.0, 2.0], [r"\textbf{3.00}", r"\underline{2.00}", r"\underline{2.00}"]),
        ([2.0, None], ["2.00", "--"]),  # the best of one is no news
        ([-2.0, -1.0], [r"\underline{-2.00}", r"\textbf{-1.00}"]),
    ],
)
def test_ties_share_a_mark_and_a_value_alone_has_none(values, marked):
    column = build.numbers("AP", values, build.PUBLISHED, ".2f")
    assert latex._cells(column, None) == marked


def test_measured_and_published_values_are_marked_in_columns_of_their_own(tmp_path):
    for seed, value in enumerate((12.0, 13.0)):
        write_clove(tmp_path, seed, metrics=VALUES | {"bbox/AP": value}, data=OFFICIAL)
    nearly = VALUES | {"bbox/AP": 12.499}  # prints as 12.50, too
    write_cell(tmp_path, metrics=nearly, data=OFFICIAL)
    inits = {"clove": {"method": "clove", "epochs": 400}, "random": RANDOM}
    inits["pixpro"] = {"method": "pixpro", "epochs": 400}
    write_matrix(tmp_path, ["coco_fpn"], inits, [0, 1])
    collect(tmp_path)
    boxes = floats(tmp_path)[0]
    clove, random, pixpro = (boxes.row(init=init) for init in inits)
    assert clove["measured AP"] == r"\textbf{12.50} $\pm$ 0.71"
    assert clove["published AP"] == r"\textbf{41.2}"
    assert clove["protocol"] == "B"
    assert clove["measured $-$ published AP"] == "$-$28.70"
    assert random["measured AP"] == r"\textbf{12.50}"
    assert (clove["n"], random["n"], pixpro["n"]) == ("2", "1 of 2", "0 of 2")
    assert pixpro["measured AP50"] == "missing"
    assert pixpro["published AP50"] == "59.5"
    notes = [boxes.notes[number] for number in pixpro["notes"].split(", ")]
    assert notes[:2] == ["published by CLoVE, table 2", "missing: seed 0, 1"]
    assert notes[2].startswith("published: PixPro's own README")
    others = [row for row in boxes.rows if row["init"] == "--"]
    assert {row["measured AP"] for row in others} == {"--"}


@pytest.mark.parametrize(
    ("words", "tex"),
    [
        ("coco_fpn & 5%", r"coco\_fpn \& 5\%"),
        ("a\\b~c^d", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d"),
        ("#{$}", r"\#\{\$\}"),
        ("< 0.0001", "$<$ 0.0001"),
        ("1 ± 2 – 3", r"1 $\pm$ 2 -- 3"),
        ("-1.5", "$-$1.5"),
        ("[a] *", "{[}a] {*}"),  # they would be arguments of the \\\\ before them
        ("s1x - s2x\n  next", "s1x - s2x next"),
    ],
)
def test_text_is_escaped_once(words, tex):
    assert latex.text(words) == tex


def test_best_is_bold_and_second_underlined_in_every_published_column(tmp_path):
    write_matrix(tmp_path, ["coco_fpn"], {}, [])
    collect(tmp_path)
    boxes, masks = floats(tmp_path)
    assert boxes.row(method="clove", epochs="400")["published AP"] == r"\textbf{41.2}"
    assert boxes.row(method="clove", epochs="200")["published AP"] == r"\underline{40.8}"
    # CLoVE prints 45.0 for 200 and for 400 epochs
    assert sum(row["published AP75"] == r"\textbf{45.0}" for row in boxes.rows) == 2
    assert any(row["published AP50"].startswith(r"\textbf{") for row in masks.rows)
    assert "equal ones share the mark" in boxes.caption


def test_measured_values_are_marked_only_under_one_config(tmp_path):
    write_cell(tmp_path, "a", data=OFFICIAL)
    write_cell(tmp_path, "b", data=OFFICIAL, metrics=VALUES | {"bbox/AP": 90.0})
    collect(tmp_path)
    assert floats(tmp_path)[0].row(init="b")["measured AP"] == r"\textbf{90.00}"
    # as an init that was trained for longer
    write_cell(tmp_path, "c", data=OFFICIAL, config_sha256="bad" * 20)
    collect(tmp_path)
    for one in floats(tmp_path):
        measured = [row[name] for row in one.rows for name in row if name.startswith("measured")]
        assert not any("\\" in cell for cell in measured)
        assert any("\\textbf" in row["published AP"] for row in one.rows)


def test_every_table_of_every_task_can_be_read_by_latex(tmp_path):
    tasks = load_published()
    for task in tasks.values():
        for init in ("init_0", "init_1"):
            for seed in range(3):
                metrics = {name: 20.0 + seed for name in task.metrics}
                own = {"metrics": metrics, "main_metric": task.main_metric}
                write_cell(tmp_path, init, task.name, seed, **own)
    collect(tmp_path)
    of_tests = [one for one in floats(tmp_path) if "Welch" in one.caption]
    assert len(of_tests) == len(tasks)
    assert of_tests[0].rows[0]["inits"] == r"init\_0 $-$ init\_1"
