"""The benchmark that the tests of ``python -m benchmarks run`` share."""

import pytest

from tests.benchmarks.bench import Bench, use_stand_ins


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    use_stand_ins(tmp_path, monkeypatch.setattr)
    return Bench(tmp_path)
