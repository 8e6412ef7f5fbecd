"""Whether two sets of replicates differ: the paired t-test over seeds, corrected by Holm."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.tables.statistics import holm, paired_p

By = dict[int, dict[str, Any]]  # by seed; the field "value" is what is compared


@dataclass(frozen=True)
class Comparison:
    """Two things by seed, and the differences of the seeds that both have.

    p: of the two-sided paired t-test; None where there are under MIN_SEEDS pairs, or where all
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
