"""``python -m benchmarks.evidence page``: SCENES.md and SCENES.svg from what ``results/`` holds."""

import itertools
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.evidence.paired import By, Comparison, compare
from benchmarks.evidence.picture import draw
from benchmarks.evidence.rows import (
    CLOVE,
    FROZEN,
    FULL,
    INITS,
    RANDOM,
    Replicate,
    read_replicates,
)
from benchmarks.tables.build import NOTHING, Measured, short
from benchmarks.tables.markdown import grid
from benchmarks.tables.published import load_published
from benchmarks.tables.wording import p_value
from pretrain.runtime.files import write_text

SCENES_MD = Path(__file__).parents[1] / "SCENES.md"
TEMPLATE = Path(__file__).with_name("page.md")
ALPHA = 0.05
NEAR = 2  # standard deviations: within the spread, as the template says

TITLES = {
    FULL: "Full fine-tuning (`full`)",
    FROZEN: "Frozen trunk: only neck and heads learn (`frozen`)",
}


def write(results: Path, page_path: Path) -> None:
    """Write the page of ``results``, and its picture beside it."""
    first, second = (read_replicates(results, run) for run in (1, 2))
    picture = page_path.with_suffix(".svg")
    write_text(picture, draw(first))
    write_text(page_path, page(first, second, picture.name))


def page(replicates: Sequence[Replicate], repeated: Sequence[Replicate], picture: str) -> str:
    """SCENES.md; ``repeated``: second runs; ``picture``: the name of the file beside it."""
    found = {regime for replicate in replicates for regime, _, _ in replicate.cells}
    ablations = sorted(found - TITLES.keys())
    regimes = [*TITLES, *ablations]
    repeated_rows, distances = _again(replicates, repeated, regimes)
    parts = {
        "regimes": [part for regime in regimes for part in _regime(replicates, regime)],
        "ablations": _ablations(replicates, ablations),
        "repeated": [grid(repeated_rows), _provenance(repeated)],
        "hours": [_hours(replicates, regimes)],
        "hashes": [_provenance(replicates)],
    }
    return TEMPLATE.read_text().format(
        **{name: "\n\n".join(own) for name, own in parts.items()},
        num_near=sum(abs(distance) <= NEAR for distance in distances),
        num_repeated=len(distances),
        picture=picture,
    )


def _metrics() -> dict[str, str]:
    """The main metric of every task, in the order of the tables."""
    return {name: task.main_metric for name, task in load_published().items()}


def _tasks(replicates: Iterable[Replicate], regimes: Iterable[str]) -> list[str]:
    names = {t for replicate in replicates for r, _, t in replicate.cells if r in regimes}
    return [task for task in _metrics() if task in names]


def _cells(replicates: Iterable[Replicate], regime: str, init: str, task: str) -> By:
    key = (regime, init, task)
    return {r.seed: r.cells[key] for r in replicates if key in r.cells}


def _regime(replicates: Sequence[Replicate], regime: str) -> list[str]:
    """``clove`` against ``random``, a row per task; an ablation without ``random`` has no such."""
    own = [r for r in replicates if any(name == regime for name, _, _ in r.cells)]
    pairs = {
        task: tuple(_cells(own, regime, init, task) for init in (CLOVE, RANDOM))
        for task in _tasks(own, [regime])
    }
    if not any(random for _, random in pairs.values()):
        return []
    metrics = [_metrics()[task] for task in pairs]
    said, *table = _compared(pairs, "task", (CLOVE, RANDOM), ("`clove`", "`random`"), metrics)
    title = TITLES.get(regime, f"`{regime}`: {CLOVE} against {RANDOM}")
    seeds = ", ".join(str(replicate.seed) for replicate in own)
    return [f"## {title}", _prose(f"Replicates: {seeds}. {said}"), *table]


def _ablations(replicates: Sequence[Replicate], names: Sequence[str]) -> list[str]:
    """A table per task: ``clove`` of each ablation against that of the full regime."""
    parts = []
    for task in _tasks(replicates, names):
        full = _cells(replicates, FULL, CLOVE, task)
        pairs = {name: (_cells(replicates, name, CLOVE, task), full) for name in names}
        pairs = {name: both for name, both in pairs.items() if both[0]}
        said, *table = _compared(pairs, "regime", ("ablation", FULL), ("an ablation", "`full`"))
        parts += [f"### `{task}`, `{_metrics()[task]}`", _prose(said), *table]
    return parts


def _compared(
    pairs: Mapping[str, tuple[By, By]],
    kind: str,
    names: tuple[str, str],
    words: tuple[str, str],
    metrics: Sequence[str] = (),
) -> list[str]:
    """What came of the comparisons, and their table.

    kind: of the rows. names: of the two in the head, words: in a sentence.
    """
    compared = compare(pairs)
    first, second = names
    head = [kind, *(["metric"] if metrics else []), first, f"n of {first}", second]
    rows = [[*head, f"n of {second}", "pairs", f"{first} − {second}", "p", "p (Holm)"]]
    for number, row in enumerate(compared):
        cells = [f"`{name}`" for name in (row.name, *metrics[number : number + 1])]
        for own in (row.first, row.second):
            cells += [_mean([cell["value"] for cell in own.values()]), str(len(own))]
        cells += [str(len(row.differences)), _mean(row.differences, "+")]
        cells += [p_value(p).text for p in (row.p, row.p_holm)]
        rows.append(cells)
    return [_verdict(compared, words), grid(rows)]


def _mean(values: Sequence[float], sign: str = "") -> str:
    """Mean ± sample standard deviation; the value alone for one. sign: ``+`` shows the mean's."""
    return format(Measured.of(values), sign) if values else NOTHING


def _verdict(compared: Sequence[Comparison], words: tuple[str, str]) -> str:
    """How many comparisons there are, and what came of them."""
    tested = [(sum(row.differences), row.p, row.p_holm) for row in compared if row.p is not None]

    def found(sign: int, column: int) -> int:
        return sum(sign * row[0] > 0 and row[column] < ALPHA for row in tested)

    return (
        f"Comparisons in this table: {len(tested)}. {words[0][0].upper() + words[0][1:]} is above "
        f"{words[1]} with p < {ALPHA} in {found(1, 1)} of them and below it in {found(-1, 1)}; "
        f"after Holm's correction in {found(1, 2)} and {found(-1, 2)}."
    )


def _again(
    replicates: Sequence[Replicate], repeated: Sequence[Replicate], regimes: Sequence[str]
) -> tuple[list[list[str]], list[float]]:
    """A row for every value of a second run, and how far each is from the mean of all, in std."""
    head = ["seed", "regime", "init", "task", "first run", "second run"]
    rows, distances = [[*head, "all replicates", "second run − mean, in std"]], []
    for second, *key in itertools.product(repeated, regimes, INITS, _metrics()):
        known = {seed: cell["value"] for seed, cell in _cells(replicates, *key).items()}
        if tuple(key) not in second.cells or len(known) < 2:  # of one there is no std
            continue
        value, spread = second.cells[*key]["value"], list(known.values())
        distances.append((value - statistics.fmean(spread)) / statistics.stdev(spread))
        regime, init, task = key
        row = [str(second.seed), f"`{regime}`", init, f"`{task}`"]
        row += [_number(known.get(second.seed)), _number(value), _mean(spread)]
        rows.append([*row, f"{distances[-1]:+.1f}"])
    return rows, distances


def _hours(replicates: Sequence[Replicate], regimes: Sequence[str]) -> str:
    """A row per replicate, and one for each of its regimes."""
    rows = [["seed", "regime", "machine", "scenes", "pretraining", "conversion", "fine-tuning"]]
    for replicate in replicates:
        seed, about = str(replicate.seed), replicate.about
        rows.append([seed, NOTHING, about["hardware"], _number(about["hours"]), *[NOTHING] * 3])
        for regime in regimes:
            cells = [cell for (name, _, _), cell in replicate.cells.items() if name == regime]
            if not cells:
                continue
            source = replicate.pretrainings.get(regime, {})
            seconds = (source.get("seconds"), sum(cell["seconds"] for cell in cells))
            training, fine_tuning = (_number(s and s / 3600) for s in seconds)
            machines = "; ".join(sorted({cell["hardware"] for cell in cells}))
            hours = [training, _number(source.get("conversion_hours")), fine_tuning]
            rows.append([seed, f"`{regime}`", machines, NOTHING, *hours])
    return grid(rows)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _provenance(replicates: Sequence[Replicate]) -> str:
    """A line per replicate: commits, scenes, fingerprints of weights and data."""
    lines = []
    for replicate in replicates:
        cells, about = replicate.cells.values(), replicate.about
        sources = [row for row in replicate.pretrainings.values() if row["checkpoint_sha256"]]
        # 8 digits, and what may follow the 40 of a commit: +changes
        found = {row["git_commit"] for row in (about, *cells, *sources)}
        commits = {commit[:8] + commit[40:] for commit in found}
        weights = [f"{row['regime']} {short(row['checkpoint_sha256'])}" for row in sources]
        data = []
        for task in _tasks([replicate], {regime for regime, _, _ in replicate.cells}):
            found = {short(cell["data_sha256"]) for cell in cells if cell["task"] == task}
            data.append(f"{task} {' and '.join(sorted(found))}")
        lines.append(
            f"- {replicate.seed}: commit {', '.join(sorted(commits))}; {'easy ' * about['easy']}"
            f"scenes of {about['longest_side']} px, {about['unlabelled']} unlabelled, "
            f"{about['train']} to train, {about['val']} to test; pretraining "
            f"{', '.join(weights)}; data {', '.join(data)}."
        )
    return "\n".join(lines)


def _prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 100, break_on_hyphens=False)
