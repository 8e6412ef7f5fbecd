"""What is said of a table on every page, in Markdown, LaTeX and HTML; nothing is escaped here."""

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.tables.build import NOTHING, Column, Entry, Table, numbers, short, words
from benchmarks.tables.results import Result
from benchmarks.tables.statistics import MIN_SEEDS, compare_inits

FOLDED = "Published values, all of ResNet-50 on the official data"


def whose_data(table: Table) -> str:
    """The end of a title: what the data are where they are not the official ones."""
    unofficial = table.data is not None and not table.official
    return f": on {table.data.name}, not the official data" if unofficial else ""


def sentence(table: Table) -> str:
    """``coco_fpn, box AP: clove 9.1, random 3.0``; empty where nothing was measured."""
    metric = table.task.main_metric
    rows = [(row.init, row.measured[metric].mean) for row in table.rows if metric in row.measured]
    name = metric.replace("bbox/", "box/").replace("segm/", "mask/").replace("/", " ")
    values = ", ".join(f"{init} {mean:.1f}" for init, mean in rows)
    return f"{table.task.name}, {name}: {values}" if rows else ""


def caption(table: Table) -> str:
    """What all rows share, a sentence each."""
    data = table.data
    if data is None:
        return "No cell of this task is finished: nothing was measured."

    def once(read: Callable[[Result], Any]) -> str:
        """What all results share; where they do not, each value with the inits that have it."""
        inits: dict[str, dict[str, None]] = {}
        for result in table.results:
            inits.setdefault(str(read(result)), {})[result.init] = None
        if len(inits) == 1:
            return next(iter(inits))
        return ", ".join(f"{value} ({', '.join(names)})" for value, names in inits.items())

    return (
        f"Data: {data.name}, {data.train_images} training and {data.test_images} test images, "
        f"fingerprint {short(data.sha256)}. "
        f"Trunk: {once(lambda result: f'ResNet-{result.depth}' if result.depth else 'unknown')}. "
        f"Iterations: {once(lambda result: result.iterations)}. "
        f"Images per batch: {once(lambda result: result.images_per_batch)}. "
        f"Hardware: {once(lambda result: result.hardware)}. "
        f"Config: {once(lambda result: short(result.config_sha256))}."
    )


def warnings(table: Table) -> list[str]:
    """What a reader must know before comparing rows."""
    said, metric = [], table.task.main_metric
    if not table.one_config:
        said.append("The rows were not all run under one config.")
    # A network that has learnt next to nothing orders no methods.
    values = [result.metrics[metric] for result in table.results if metric in result.metrics]
    if max(values, default=1) < 1:
        said.append(f"Every {metric} is under 1: this run shows the road, not quality.")
    return said


def comparability(table: Table) -> str:
    """Where there is a difference to published values, and why there is none elsewhere."""
    task = table.task
    if table.data is None:
        return ""
    if not table.official:
        return "Measured values do not compare with published ones here; no difference is computed."
    if not task.rows:
        return ""
    return (
        f"A difference is computed only to values published under protocol {task.protocol}, and "
        f"only where the config is that protocol's own ({short(task.config_sha256)})."
    )


def protocols(table: Table) -> list[str]:
    """The letters of a table's rows, explained."""
    task = table.task
    used = {letter for row in task.rows for letter in row.protocols.values()}
    return [
        f"{letter}{' (as in configs/transfer)' if letter == task.protocol else ''}: {meaning}"
        for letter, meaning in task.protocols.items()
        if letter in used or (used and letter == task.protocol)
    ]


def numbered(notes: Iterable[str]) -> dict[str, int]:
    """Each note once, numbered from 1 on."""
    return {note: number for number, note in enumerate(dict.fromkeys(notes), start=1)}


def tests(table: Table) -> tuple[str, list[Column]] | None:
    """How inits were compared, and a table of all pairs; None where there is no pair."""
    pairs = compare_inits(table)
    if not pairs:
        return None
    metric = table.task.main_metric
    tests = [pair.test for pair in pairs]
    tested = [test for test in tests if test]
    freedom = [test and test["degrees_of_freedom"] for test in tests]
    said = (
        f"Welch's t-test on {metric} between inits with at least {MIN_SEEDS} seeds "
        f"each and one schedule. Comparisons in this table: {len(tested)}. p is that of one alone; "
        "p (Holm) is corrected for all of these, not for those of other tables. Seeds change the "
        "fine-tuning only: neither says how another pretraining would come out."
    )
    if len(tested) < len(pairs):
        said += f" {NOTHING}: not tested, since neither init has any spread."
    return said, [
        words("inits", [f"{pair.first} − {pair.second}" for pair in pairs]),
        numbers("difference", [pair.difference for pair in pairs], form="+.2f"),
        numbers("t", [test and test["t"] for test in tests], form=".2f"),
        numbers("degrees of freedom", freedom, form=".1f"),
        Column("p", [p_value(test and test["p"]) for test in tests]),
        Column("p (Holm)", [p_value(test and test["p_holm"]) for test in tests]),
    ]


def p_value(value: float | None) -> Entry:
    """A p with four digits."""
    if value is None:
        return Entry(NOTHING)
    return Entry("< 0.0001" if value < 0.0001 else f"{value:.4f}", value)
