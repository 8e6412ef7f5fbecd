"""Whether two sets of replicates differ: the paired t-test over seeds, corrected by Holm."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import ttest_rel

from benchmarks.significance import holm

MIN_PAIRS = 3
ROUNDING = 1e-9  # of the largest value: differences that vary by less do not vary


By = dict[int, dict[str, Any]]  # by seed; the field "value" is what is compared


@dataclass(frozen=True)
class Comparison:
    """Two things by seed, and the differences of the seeds that both have.

    p: of the two-sided paired t-test; None where there are under MIN_PAIRS pairs, or where all
    differences are the same, so that there is no spread to measure them by. p_holm: corrected for
    all tests of one table.
    """

    name: str
    first: By
    second: By
    differences: list[float]  # first less second, by seed
    p: float | None
    p_holm: float | None = None


def compare(pairs: Mapping[str, tuple[By, By]]) -> list[Comparison]:
    """Compare the two of each name over the seeds that both have; all names are one table."""
    compared = []
    for name, (first, second) in pairs.items():
        seeds = sorted(first.keys() & second.keys())
        a, b = ([each[seed]["value"] for seed in seeds] for each in (first, second))
        differences = [x - y for x, y in zip(a, b, strict=True)]
        compared.append(Comparison(name, first, second, differences, paired_p(a, b)))
    corrected = iter(holm([row.p for row in compared if row.p is not None]))
    return [row if row.p is None else replace(row, p_holm=next(corrected)) for row in compared]


def paired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test of two lists of one length; None as in ``Comparison``."""
    if len(a) < MIN_PAIRS:
        return None
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if max(differences) - min(differences) <= ROUNDING * max(map(abs, (*a, *b))):
        return None
    return float(ttest_rel(a, b).pvalue)


def mean_and_std(values: Sequence[float], sign: str = "") -> str:
    """``12.34 ± 0.56`` with the sample standard deviation; the value alone for one.

    sign: ``+`` has the mean show its sign.
    """
    mean = f"{statistics.fmean(values):{sign}.2f}"
    return mean + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
