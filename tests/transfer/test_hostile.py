import json
import os
import pickle
import subprocess
import sys

import pytest

from pretrain.runtime.config import REPOSITORY
from tests.transfer import hostile


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "out").mkdir()
    hostile.write_all(folder)
    command = [sys.executable, "-m", "tests.transfer.hostile", str(folder)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    names = sorted(path.name for path in folder.glob("*.pth"))
    assert [result["file"] for result in results] == names, (done.returncode, done.stderr[-2000:])
    assert not (folder / hostile.CANARY).exists()
    return results


def test_there_are_more_than_a_hundred(results):
    assert len(results) > 100


def test_every_file_ends_in_one_clear_line_that_names_it_and_nothing_is_written(results):
    for result in results:
        error = result["error"]
        assert result["code"] == 2, result
        assert error.startswith("error: "), result
        assert error.count("\n") == 1, result
        assert result["file"] in error, result
        assert len(error) < 1500, result
        assert not result["written"], result


def test_none_of_them_passes_as_converted_weights(results):
    for result in results:
        if result["file"] != "content_converted.pth":
            assert result["file"] in (result["as_weights"] or ""), result


def test_code_is_named_and_was_not_executed(results):
    code = [result for result in results if result["file"].startswith("code_")]
    assert len(code) > 30
    nameless = {f"code_{name}.pth" for name in ("extension", "persistent", "dotted")}
    for result in code:
        named = "nothing was executed" in result["error"]
        assert named == (result["file"] not in nameless), result


def test_time_and_memory_stay_bounded(results):
    for result in results:
        assert result["seconds"] < hostile.SECONDS, result
        assert result["growth"] < hostile.GROWTH, result


def test_the_canary_appears_when_such_a_file_is_read_unsafely(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(dict(hostile.files_that_run_code())["protocol_2"])
    assert (tmp_path / hostile.CANARY).exists()


@pytest.mark.slow
def test_fuzzing_finds_no_file_that_runs_code_or_ends_otherwise_than_in_a_checkpoint_error(
    tmp_path,
):
    command = [sys.executable, "-m", "tests.transfer.fuzz", "8000"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("'tried': ") == 3
    assert not (tmp_path / hostile.CANARY).exists()
