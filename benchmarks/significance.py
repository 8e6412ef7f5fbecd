"""Whether two inits differ by more than their seeds do: Welch's t-test, corrected by Holm."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.tables import Table

MIN_SEEDS = 3


@dataclass(frozen=True)
class Welch:
    """Welch's t-test of two means; p is two-sided, p_holm corrected for all tests of its table."""

    t: float
    degrees_of_freedom: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Comparison:
    """Two inits by the main metric of their table; no test where neither has any spread."""

    first: str
    second: str
    difference: float  # of the means, first less second
    test: Welch | None


def compare_inits(table: Table) -> list[Comparison]:
    """Every pair of inits that have at least MIN_SEEDS seeds each, under one schedule.

    An init whose seeds are not averaged, since its weights or config changed, is in no pair; nor
    is one with a seed that lacks the main metric, as cells of one's own task may.
    """
    metric, samples = table.task.main_metric, {}
    rows_of = Counter(row.init for row in table.rows if row.seeds)
    for row in table.rows:
        if len(row.seeds) >= MIN_SEEDS and rows_of[row.init] == 1 and metric in row.measured:
            own = [result for result in table.results if result.init == row.init]
            samples[row.init] = (row.schedule, [result.metrics[metric] for result in own])
    pairs = [
        (first, second, samples[first][1], samples[second][1])
        for first, second in itertools.combinations(samples, 2)
        if samples[first][0] == samples[second][0]
    ]
    tests = [welch(a, b) for _, _, a, b in pairs]
    corrected = iter(holm([test[2] for test in tests if test]))
    return [
        Comparison(
            first,
            second,
            statistics.fmean(a) - statistics.fmean(b),
            Welch(*test, next(corrected)) if test else None,
        )
        for (first, second, a, b), test in zip(pairs, tests, strict=True)
    ]


def welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float] | None:
    """t, its degrees of freedom (Welch and Satterthwaite) and the two-sided p; None for no spread.

    Of two samples of at least two values each, which may differ in variance and in size.
    """
    from scipy.special import stdtr  # half a second, and only tables of several seeds need it

    error_a, error_b = (statistics.variance(values) / len(values) for values in (a, b))
    error = error_a + error_b
    if error == 0:
        return None
    t = (statistics.fmean(a) - statistics.fmean(b)) / math.sqrt(error)
    share = error_a / error
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    return t, freedom, float(2 * stdtr(freedom, -abs(t)))


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
