"""Means over seeds, and whether two of them differ: Welch's and the paired t-test, Holm's rule."""

import itertools
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import ttest_ind, ttest_rel

from benchmarks.tables.build import Table

MIN_SEEDS = 3  # of each of two that are compared
ROUNDING = 1e-9  # of the largest value: differences that vary by less do not vary


@dataclass(frozen=True)
class Comparison:
    """Two inits by the main metric of their table; no test where neither has any spread."""

    first: str
    second: str
    difference: float  # of the means, first less second
    test: dict[str, float] | None  # t, degrees_of_freedom, p (two-sided), p_holm (of the table)


def compare_inits(table: Table) -> list[Comparison]:
    """Every pair of inits that have at least MIN_SEEDS seeds each, under one schedule.

    An init whose seeds are not averaged, since its weights or config changed, is in no pair; nor
    is one with a seed that lacks the main metric, as cells of one's own task may.
    """
    metric = table.task.main_metric
    rows = [row for row in table.rows if row.results]
    rows_of = Counter(row.init for row in rows)
    rows = [row for row in rows if rows_of[row.init] == 1 and metric in row.measured]
    rows = [row for row in rows if len(row.results) >= MIN_SEEDS]
    found = []
    for first, second in itertools.combinations(rows, 2):
        one, other = first.results[0], second.results[0]
        if (one.iterations, one.images_per_batch) == (other.iterations, other.images_per_batch):
            a, b = ([result.metrics[metric] for result in row.results] for row in (first, second))
            difference = statistics.fmean(a) - statistics.fmean(b)
            found.append((first.init, second.init, difference, welch(a, b)))
    corrected = iter(holm([test[2] for *_, test in found if test]))
    names = ("t", "degrees_of_freedom", "p", "p_holm")
    return [
        Comparison(*pair, dict(zip(names, (*test, next(corrected)), strict=True)) if test else None)
        for *pair, test in found
    ]


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float] | None:
    """t, its degrees of freedom (Welch and Satterthwaite) and the two-sided p; None for no spread.

    Of two samples of at least two values each, which may differ in variance and in size.
    """
    if len(set(a)) == len(set(b)) == 1:
        return None
    test = ttest_ind(a, b, equal_var=False)
    return float(test.statistic), float(test.df), float(test.pvalue)


def paired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test of two lists of one length.

    None for under MIN_SEEDS pairs, and where all differences are the same but for rounding: then
    there is no spread to measure them by.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if len(differences) < MIN_SEEDS:
        return None
    if max(differences) - min(differences) <= ROUNDING * max(map(abs, (*a, *b))):
        return None
    return float(ttest_rel(a, b).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted by Holm's step-down method, in the order given.

    The k-th smallest of m counts m - k + 1 times, is at least as large as those before it, and is
    at most 1: that bounds the chance of even one false finding among the m.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
