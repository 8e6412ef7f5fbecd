"""Tests between inits, against the formulas they are and values that others computed."""

import json
import statistics

import numpy as np
import pytest

from benchmarks.tables.collect import collect
from benchmarks.tables.statistics import holm, welch
from tests.benchmarks.tables.cells import VALUES, write_cell
from tests.benchmarks.tables.pages import page_of, table_rows


def test_welch_equals_what_r_prints():
    # t.test(extra ~ group, data = sleep)
    a = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
    b = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)
    t, freedom, p = welch(a, b)
    assert (round(t, 4), round(freedom, 3), round(p, 5)) == (-1.8608, 17.776, 0.07939)


def write_seeds(folder, init, values, **changes):
    for seed, value in enumerate(values):
        write_cell(folder, init, seed=seed, metrics=VALUES | {"bbox/AP": value}, **changes)


def comparisons(folder) -> dict[tuple[str, str], dict]:
    (table,) = json.loads((folder / "results.json").read_text())["tables"]
    return {(one["first"], one["second"]): one for one in table["comparisons"]}


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
        t, freedom, p = welch(values[first], values[second])
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


def test_inits_under_other_schedules_or_of_mixed_weights_are_not_tested(tmp_path):
    write_seeds(tmp_path, "a", [10.0, 11.0, 12.0])
    write_seeds(tmp_path, "longer", [20.0, 21.0, 22.0], iterations=90)
    write_seeds(tmp_path, "mixed", [30.0, 31.0, 32.0], method="clove", weights_sha256="ab" * 32)
    mixed = {"method": "clove", "weights_sha256": "cd" * 32}
    write_cell(tmp_path, "mixed", seed=3, **mixed)
    collect(tmp_path)
    assert comparisons(tmp_path) == {}


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
