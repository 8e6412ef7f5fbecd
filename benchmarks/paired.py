"""Whether two sets of replicates differ: the paired t-test over seeds, corrected by Holm."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.tables.statistics import holm

MIN_PAIRS = 3
ROUNDING = 1e-9  # of the largest value: differences that vary by less do not vary


@dataclass(frozen=True)
class Comparison:
    """Values of two things by seed, and the differences of the seeds that both have.

    p: of the two-sided paired t-test; None where there are under MIN_PAIRS pairs, or where all
    differences are the same, so that there is no spread to measure them by. p_holm: corrected for
    all tests of one table.
    """

    name: str
    first: Mapping[int, float]
    second: Mapping[int, float]
    differences: tuple[float, ...]  # first less second, by seed
    p: float | None
    p_holm: float | None

    @property
    def unpaired(self) -> dict[str, list[int]]:
        """The seeds that only one of the two has, under ``first`` and ``second``."""
        return {
            "first": sorted(self.first.keys() - self.second.keys()),
            "second": sorted(self.second.keys() - self.first.keys()),
        }


def compare(
    pairs: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]],
) -> list[Comparison]:
    """Compare the two of each name over the seeds that both have; all names are one table."""
    tested = {}
    for name, (first, second) in pairs.items():
        seeds = sorted(first.keys() & second.keys())
        tested[name] = [first[s] for s in seeds], [second[s] for s in seeds]
    p_values = {name: paired_p(a, b) for name, (a, b) in tested.items()}
    known = {name: p for name, p in p_values.items() if p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    return [
        Comparison(
            name,
            *pairs[name],
            tuple(x - y for x, y in zip(a, b, strict=True)),
            p_values[name],
            corrected.get(name),
        )
        for name, (a, b) in tested.items()
    ]


def paired_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test of two lists of one length; None as in ``Comparison``."""
    if len(a) < MIN_PAIRS or same_differences(a, b):
        return None
    from scipy.stats import ttest_rel  # a second, and a page without results does not need it

    return float(ttest_rel(a, b).pvalue)


def same_differences(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether a - b is one number, but for rounding; then t has no denominator."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    largest = max(abs(value) for value in (*a, *b))
    return max(differences) - min(differences) <= ROUNDING * largest


def mean_and_std(values: Sequence[float], sign: str = "") -> str:
    """``12.34 ± 0.56`` with the sample standard deviation; the value alone for one.

    sign: ``+`` has the mean show its sign.
    """
    mean = f"{statistics.fmean(values):{sign}.2f}"
    return mean + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
