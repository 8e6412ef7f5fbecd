"""For all tests: no network, a stand-in for Slurm; the slow ones write FAULTS.md."""

import ipaddress
import os
import socket
from pathlib import Path

import pytest

from tests import slurm as stand_in

FAULTS = Path(__file__).parents[1] / "benchmarks" / "FAULTS.md"
ITEMS = pytest.StashKey[list[pytest.Item]]()
PASSED = pytest.StashKey[set[str]]()


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Connecting to anything but a loopback address or a local socket is an error."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0]
            if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
                raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of the stand-ins for Slurm's commands, which are on PATH."""
    folder = stand_in.install(tmp_path / "cluster")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    stand_in.stop_all(folder)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Remember the tests of faults, before any is deselected."""
    config.stash[ITEMS] = [item for item in items if item.get_closest_marker("fault")]
    config.stash[PASSED] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" and report.passed:
        item.config.stash[PASSED].add(item.nodeid)
    return report


def pytest_sessionfinish(session):
    """Write FAULTS.md where all tests of faults ran and passed."""
    items = session.config.stash.get(ITEMS, [])
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if whole and items and {item.nodeid for item in items} <= session.config.stash[PASSED]:
        FAULTS.write_text(faults_table(items))


def faults_table(items):
    """Markdown, one row per test function."""
    rows = {}
    for item in items:
        name, file = item.originalname, Path(item.nodeid.split("::")[0])
        fault = item.get_closest_marker("fault")
        row = f"| {fault.args[0]} | {fault.kwargs['cause']} | {fault.kwargs['lost']} "
        rows[name] = f"{row}| [{name}](../{file}) |"
    return "\n".join(
        [
            "# What a run survives",
            "",
            "Written by `make test-slow` after every test named here has passed.",
            "",
            "| fault | how it was caused | what was lost | test |",
            "|---|---|---|---|",
            *rows.values(),
            "",
        ]
    )
