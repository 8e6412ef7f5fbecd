"""What is said of a table on every page, in Markdown, LaTeX and HTML; nothing is escaped here."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.tables.build import NOTHING, Table, short
from benchmarks.tables.results import Result
from benchmarks.tables.statistics import MIN_SEEDS, Comparison, compare_inits

TEST_COLUMNS = ("inits", "difference", "t", "degrees of freedom", "p", "p (Holm)")


def whose_data(table: Table) -> str:
    """The end of a title: what the data are where they are not the official ones."""
    unofficial = table.data is not None and not table.official
    return f": on {table.data.name}, not the official data" if unofficial else ""


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


def comparability(table: Table) -> list[str]:
    """Why there is no difference to published values, where there is none."""
    task = table.task
    if table.data is None:
        return []
    if not table.official:
        return [
            "Measured values do not compare with published ones here; no difference is computed."
        ]
    if task.rows and not any(map(table.compares, task.metrics)):
        return [f"No difference is computed: no published row is known to be {task.protocol}'s."]
    if task.rows and any(r.config_sha256 != task.config_sha256 for r in table.results):
        return [
            "No difference is computed where the config is not the task's own "
            f"({short(task.config_sha256)}), which is protocol {task.protocol}'s."
        ]
    return []


def protocols(table: Table) -> list[str]:
    """The letters of a table's rows, explained."""
    task = table.task
    if not task.rows:
        return []
    used = {letter for row in task.rows for letter in row.protocols.values()} | {task.protocol}
    return [
        f"{letter}{' (as in configs/transfer)' if letter == task.protocol else ''}: {meaning}"
        for letter, meaning in task.protocols.items()
        if letter in used
    ]


def numbered(notes: Iterable[str]) -> dict[str, int]:
    """Each note once, numbered from 1 on."""
    return {note: number for number, note in enumerate(dict.fromkeys(notes), start=1)}


def tests(table: Table) -> tuple[str, list[Sequence[str]]] | None:
    """How inits were compared, and a line for each pair; None where there is no pair."""
    comparisons = compare_inits(table)
    if not comparisons:
        return None
    metric = table.task.main_metric
    tested = sum(comparison.test is not None for comparison in comparisons)
    said = (
        f"Welch's t-test on {metric} between inits with at least {MIN_SEEDS} seeds "
        f"each and one schedule. Comparisons in this table: {tested}. p is that of one alone; "
        "p (Holm) is corrected for all of these, not for those of other tables. Seeds change the "
        "fine-tuning only: neither says how another pretraining would come out."
    )
    lacking = dict.fromkeys(
        row.init for row in table.rows if row.results and metric not in row.measured
    )
    if lacking:
        said += f" Left out, since not every seed has a value of {metric}: {', '.join(lacking)}."
    if tested < len(comparisons):
        said += f" {NOTHING}: not tested, since neither init has any spread."
    return said, [_test(comparison) for comparison in comparisons]


def _test(comparison: Comparison) -> list[str]:
    test = comparison.test
    numbers = [NOTHING] * 4
    if test is not None:
        freedom = f"{test.degrees_of_freedom:.1f}"
        numbers = [f"{test.t:.2f}", freedom, _p(test.p), _p(test.p_holm)]
    names = f"{comparison.first} − {comparison.second}"
    return [names, f"{comparison.difference:+.2f}", *numbers]


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
