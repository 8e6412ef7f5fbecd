"""Tests between inits, against the formulas they are and values that others computed."""

import json
import math
import statistics

import numpy as np
import pytest

from benchmarks.tables.collect import collect
from benchmarks.tables.statistics import holm, welch
from tests.benchmarks.tables.cells import VALUES, write_cell
from tests.benchmarks.tables.pages import page_of, table_rows

# R's data set `sleep`; t.test(extra ~ group, data = sleep) prints t, df and p-value
SLEEP = (
    (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0),
    (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4),
)


def slow_welch(a, b) -> tuple[float, float, float]:
    """By the textbook; p by Simpson's rule over the density of Student's t."""
    var_a, var_b, n_a, n_b = np.var(a, ddof=1), np.var(b, ddof=1), len(a), len(b)
    t = (np.mean(a) - np.mean(b)) / np.sqrt(var_a / n_a + var_b / n_b)
    freedom = (var_a / n_a + var_b / n_b) ** 2 / (
        var_a**2 / (n_a**2 * (n_a - 1)) + var_b**2 / (n_b**2 * (n_b - 1))
    )
    x, step = np.linspace(0, abs(t), 20_001, retstep=True)
    gammas = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = math.exp(gammas) / math.sqrt(freedom * math.pi)
    density = density * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    inside = step / 3 * (density[0] + density[-1])
    inside += step / 3 * (4 * density[1:-1:2].sum() + 2 * density[2:-1:2].sum())
    return t, freedom, 1 - 2 * inside


def write_seeds(folder, init, values, **changes):
    for seed, value in enumerate(values):
        write_cell(folder, init, seed=seed, metrics=VALUES | {"bbox/AP": value}, **changes)


def comparisons(folder) -> dict[tuple[str, str], dict]:
    (table,) = json.loads((folder / "results.json").read_text())["tables"]
    return {(one["first"], one["second"]): one for one in table["comparisons"]}


@pytest.mark.parametrize("seed", range(20))
def test_welch_equals_the_textbooks(seed):
    rng = np.random.default_rng(seed)
    sizes, spreads = rng.integers(2, 9, 2), rng.uniform(0.1, 3, 2)
    a, b = (rng.normal(40, s, n).tolist() for s, n in zip(spreads, sizes, strict=True))
    assert welch(a, b) == pytest.approx(slow_welch(a, b), rel=1e-8, abs=1e-12)


def test_welch_equals_what_r_prints_for_its_sleep_data():
    t, freedom, p = welch(*SLEEP)
    assert (round(t, 4), round(freedom, 3), round(p, 5)) == (-1.8608, 17.776, 0.07939)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0, 100.0])
def test_welch_has_the_closed_form_of_two_degrees_of_freedom(shift):
    t, freedom, p = welch([0.0, 2.0], [shift, shift + 2.0])
    assert (t, freedom) == pytest.approx((-shift / math.sqrt(2), 2))
    assert p == pytest.approx(1 - abs(t) / math.sqrt(2 + t * t), rel=1e-9)


def test_welch_has_the_tables_quantile_of_four_degrees_of_freedom():
    # two samples of 3 with variance 1: t is the shift over sqrt(2/3); 2.776445 is t(0.975; 4)
    t, freedom, p = welch(
        [0.0, 1.0, 2.0], [1 + 2.776445 * math.sqrt(2 / 3) + x for x in (-1, 0, 1)]
    )
    assert (t, freedom, p) == pytest.approx((-2.776445, 4, 0.05), rel=1e-6)


def test_one_sample_without_spread_has_the_others_degrees_of_freedom():
    t, freedom, p = welch([1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert freedom == pytest.approx(2)
    assert t == pytest.approx(-2 * math.sqrt(3))
    assert p == pytest.approx(1 - abs(t) / math.sqrt(2 + t * t))


def test_holm_equals_what_r_prints():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(10))
def test_holm_rejects_what_its_procedure_rejects(seed):
    rng = np.random.default_rng(seed)
    p_values = (rng.random(7) ** 3).tolist()
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        for rank, p in enumerate(sorted(p_values)):
            if p > level / (len(p_values) - rank):
                break
            rejected.add(p)
        adjusted = zip(p_values, holm(p_values), strict=True)
        assert {p for p, corrected in adjusted if corrected <= level} == rejected


def test_every_pair_of_inits_is_tested_and_the_page_says_how_many(tmp_path):
    values = {"a": [10.0, 10.5, 11.0], "b": [12.0, 12.5, 12.25], "c": [11.0, 11.5, 13.0, 12.0]}
    for init, own in values.items():
        write_seeds(tmp_path, init, own)
    write_seeds(tmp_path, "two_seeds", [30.0, 31.0])
    collect(tmp_path)
    found = comparisons(tmp_path)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), one in found.items():
        t, freedom, p = slow_welch(values[first], values[second])
        assert one["test"]["t"] == pytest.approx(t)
        assert one["test"]["degrees_of_freedom"] == pytest.approx(freedom)
        assert one["test"]["p"] == pytest.approx(p, rel=1e-6)
        difference = statistics.fmean(values[first]) - statistics.fmean(values[second])
        assert one["difference"] == pytest.approx(difference)
    corrected = holm([one["test"]["p"] for one in found.values()])
    assert [one["test"]["p_holm"] for one in found.values()] == corrected
    page = page_of(tmp_path)
    assert "Comparisons in this table: 3." in page
    assert "Welch's t-test on bbox/AP" in page
    rows = table_rows(page, "### Between inits")
    assert [row["inits"] for row in rows] == ["a − b", "a − c", "b − c"]
    assert rows[0]["p"] == f"{found['a', 'b']['test']['p']:.4f}"
    assert rows[0]["p (Holm)"] == f"{corrected[0]:.4f}"


def test_two_seeds_are_too_few_for_a_test(tmp_path):
    write_seeds(tmp_path, "a", [10.0, 11.0, 12.0])
    write_seeds(tmp_path, "b", [10.0, 11.0])
    collect(tmp_path)
    assert comparisons(tmp_path) == {}
    assert "Welch" not in page_of(tmp_path)
    assert "Welch" not in (tmp_path / "results.tex").read_text()


def test_inits_under_other_schedules_or_of_mixed_weights_are_not_tested(tmp_path):
    write_seeds(tmp_path, "a", [10.0, 11.0, 12.0])
    write_seeds(tmp_path, "longer", [20.0, 21.0, 22.0], iterations=90)
    write_seeds(tmp_path, "mixed", [30.0, 31.0, 32.0], method="clove", weights_sha256="ab" * 32)
    mixed = {"method": "clove", "weights_sha256": "cd" * 32}
    write_cell(tmp_path, "mixed", seed=3, **mixed)
    collect(tmp_path)
    assert comparisons(tmp_path) == {}


def test_inits_of_an_own_task_that_lack_its_main_metric_are_left_out_and_named(tmp_path):
    for seed, value in enumerate((10.0, 11.0, 13.0)):
        for init in ("a", "b"):
            metrics = {"quality": value + (init == "b"), "bbox/AP": value}
            write_cell(tmp_path, init, "mine", seed, metrics=metrics, main_metric="quality")
        lacks = {"bbox/AP": value} | ({"quality": value} if seed else {})
        write_cell(tmp_path, "c", "mine", seed, metrics=lacks, main_metric="bbox/AP")
    assert collect(tmp_path) == 0
    assert list(comparisons(tmp_path)) == [("a", "b")]
    page = page_of(tmp_path)
    assert "Welch's t-test on quality" in page
    assert "Left out, since not every seed has a value of quality: c." in page


def test_seeds_that_all_gave_the_same_are_not_tested_and_not_counted(tmp_path):
    write_seeds(tmp_path, "a", [10.0, 10.0, 10.0])
    write_seeds(tmp_path, "b", [11.0, 11.0, 11.0])
    write_seeds(tmp_path, "c", [11.0, 12.0, 13.0])
    collect(tmp_path)
    found = comparisons(tmp_path)
    assert found["a", "b"]["test"] is None
    assert found["a", "c"]["test"]["p_holm"] == pytest.approx(2 * found["a", "c"]["test"]["p"])
    page = page_of(tmp_path)
    assert "Comparisons in this table: 2." in page
    assert "–: not tested, since neither init has any spread." in page
    row = table_rows(page, "### Between inits")[0]
    assert (row["inits"], row["difference"], row["p (Holm)"]) == ("a − b", "-1.00", "–")


def test_a_tiny_p_is_bounded_and_not_zero(tmp_path):
    write_seeds(tmp_path, "a", [10.0, 10.001, 10.002])
    write_seeds(tmp_path, "b", [90.0, 90.001, 90.002])
    collect(tmp_path)
    assert table_rows(page_of(tmp_path), "### Between inits")[0]["p"] == "< 0.0001"
    assert 0 < comparisons(tmp_path)["a", "b"]["test"]["p"] < 1e-8
