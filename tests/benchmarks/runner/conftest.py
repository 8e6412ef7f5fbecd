"""The benchmark that the tests of ``python -m benchmarks run`` share."""

import pytest

from benchmarks.runner import matrix
from tests.benchmarks.runner.bench import Bench, use_stand_ins

resolve = matrix.resolve  # before a fixture replaces it


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    use_stand_ins(tmp_path, monkeypatch.setattr)
    return Bench(tmp_path)


@pytest.fixture
def resolved(bench, monkeypatch) -> None:
    """Settings are what ``transfer`` makes of them."""
    monkeypatch.setattr(matrix, "resolve", resolve)
