"""The paired test between replicates, against the formula it is and a value that R prints."""

import math

import numpy as np
import pytest

from benchmarks.evidence.paired import compare
from benchmarks.tables.statistics import paired_p

SLEEP = (  # R's: hours of sleep gained with two drugs
    (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0),
    (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4),
)


def slow_paired_p(a, b) -> float:
    """By the textbook: t of the mean difference; p by Simpson's rule over Student's density."""
    n, d = len(a), [x - y for x, y in zip(a, b, strict=True)]
    average = sum(d) / n
    t = average / math.sqrt(sum((x - average) ** 2 for x in d) / (n - 1) / n)
    x, step = np.linspace(0, abs(t), 20_001, retstep=True)
    gammas = math.lgamma(n / 2) - math.lgamma((n - 1) / 2)
    density = math.exp(gammas) / math.sqrt((n - 1) * math.pi)
    density = density * (1 + x**2 / (n - 1)) ** (-n / 2)
    inside = step / 3 * (density[0] + density[-1])
    inside += step / 3 * (4 * density[1:-1:2].sum() + 2 * density[2:-1:2].sum())
    return 1 - 2 * inside


def slow_holm(p_values) -> list[float]:
    """The largest, over all that are not larger, of p times how many are not smaller."""
    return [
        max(min(1, q * sum(other >= q for other in p_values)) for q in p_values if q <= p)
        for p in p_values
    ]


@pytest.mark.parametrize("seed", range(5))
def test_p_is_the_textbooks(seed):
    rng = np.random.default_rng(seed)
    n, shift = int(rng.integers(3, 9)), rng.uniform(-2, 2)
    a = rng.normal(30, 3, n)
    b = a + shift + rng.normal(0, rng.uniform(0.2, 2), n)
    assert paired_p(a.tolist(), b.tolist()) == pytest.approx(
        slow_paired_p(a, b), rel=1e-7, abs=1e-9
    )


def test_p_is_what_r_prints_for_its_sleep_data():
    # t.test(extra ~ group, data = sleep, paired = TRUE): t = -4.0621, df = 9, p-value = 0.002833
    assert round(paired_p(*SLEEP), 6) == 0.002833


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([1.1, 2.2, 3.3], [0.1, 1.2, 2.3]),  # but for rounding, 1 each
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        ([1.0, 2.0], [3.0, 5.0]),
        ([], []),
    ],
    ids=["no difference", "one difference", "zeros", "two pairs", "none"],
)
def test_without_spread_or_with_few_pairs_there_is_no_p(a, b):
    assert paired_p(a, b) is None


def test_only_seeds_that_both_have_are_paired():
    first, second = (
        {seed: {"value": value} for seed, value in own.items()}
        for own in ({3: 1.0, 1: 5.0, 2: 2.5, 4: 4.0}, {1: 4.0, 2: 2.0, 4: 1.0, 9: 7.0})
    )
    (found,) = compare({"x": (first, second)})
    assert found.differences == [1.0, 0.5, 3.0]
    assert found.p == found.p_holm
    assert found.p == pytest.approx(slow_paired_p([5.0, 2.5, 4.0], [4.0, 2.0, 1.0]))
