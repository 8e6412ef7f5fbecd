"""What a page says of its tables, whether in Markdown or in LaTeX; nothing is escaped here."""

from collections.abc import Iterable, Sequence

from benchmarks.significance import MIN_SEEDS, Comparison, compare_inits
from benchmarks.tables import Block, Measured, Row, Table, short

NOTHING = "–"
MISSING = "missing"

TEST_COLUMNS = ("inits", "difference", "t", "degrees of freedom", "p", "p (Holm)")


def whose_data(table: Table) -> str:
    """The end of a title: what the data are where they are not the official ones."""
    unofficial = table.data is not None and not table.official
    return f": on {table.data.name}, not the official data" if unofficial else ""


def caption(table: Table) -> list[str]:
    """What all rows share, a sentence each."""
    data, once = table.data, table.said_once
    if data is None:
        return ["No cell of this task is finished: nothing was measured."]
    return [
        f"Data: {data.name}, {data.train_images} training and {data.test_images} test images, "
        f"fingerprint {short(data.sha256)}.",
        f"Iterations: {once(lambda result: result.iterations)}.",
        f"Images per batch: {once(lambda result: result.images_per_batch)}.",
        f"Hardware: {once(lambda result: result.hardware)}.",
        f"Config: {once(lambda result: short(result.config_sha256))}.",
    ]


def warnings(table: Table) -> list[str]:
    """What a reader must know before comparing rows."""
    said = []
    if not table.one_config:
        said.append("The rows were not all run under one config.")
    if table.shows_the_road_only:
        metric = table.task.main_metric
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
    if task.rows and table.off_config:
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


def row_notes(row: Row) -> list[str]:
    """What is said of a row, of ours and of the published one beside it."""
    remark = row.published.remark if row.published else ""
    return [*row.notes, *([f"published: {remark}"] if remark else [])]


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
        row.init for row in table.rows if row.seeds and metric not in row.measured
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


def measured(row: Row, metric: str) -> str:
    """``12.50 ± 0.25``; the value alone for one seed."""
    if row.missing and not row.seeds:
        return MISSING
    return mean_and_std(row.measured.get(metric))


def mean_and_std(value: Measured | None) -> str:
    if value is None:
        return NOTHING
    return f"{value.mean:.2f}" + (f" ± {value.std:.2f}" if value.std is not None else "")


def published(row: Row, metric: str) -> str:
    """Digit for digit as it was printed."""
    return str(row.published.values.get(metric, NOTHING)) if row.published else NOTHING


def protocol(row: Row, block: Block) -> str:
    """The letter of the block's metrics, which are of one group."""
    letters = row.published.protocols if row.published else {}
    return next((letters[metric] for metric in block.metrics if metric in letters), NOTHING)


def difference(table: Table, row: Row, metric: str) -> str:
    """Measured less published, where the two compare."""
    value = table.difference(row, metric)
    return NOTHING if value is None else f"{value:+.2f}"


def epochs(row: Row) -> str:
    return NOTHING if row.epochs is None else f"{row.epochs:g}"


def seeds(row: Row) -> str:
    """How many there are, and of how many where some are missing."""
    if row.init is None:
        return NOTHING
    return f"{len(row.seeds)} of {row.wanted}" if row.missing else str(len(row.seeds))
