"""The benchmark that the tests of ``python -m benchmarks run`` share, and a stand-in for Slurm."""

import os

import pytest

from tests import slurm as stand_in
from tests.benchmarks.bench import Bench, use_stand_ins


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    use_stand_ins(tmp_path, monkeypatch.setattr)
    return Bench(tmp_path)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of the stand-in commands, which are on PATH."""
    folder = stand_in.install(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    stand_in.stop_all(folder)
