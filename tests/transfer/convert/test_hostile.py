import contextlib
import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.runtime.reading import read
from tests.transfer.convert import hostile
from transfer.convert import METHODS, CheckpointError, load_converted
from transfer.convert.__main__ import main
from transfer.convert.backbones import find_backbone
from transfer.convert.layouts import allowed


def test_every_wrong_file_ends_in_one_clear_line_that_names_it_and_nothing_is_run_or_written(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    hostile.write_all(tmp_path)
    paths = sorted(tmp_path.glob("*.pth"))
    assert len(paths) > 100
    nameless = {f"code_{name}.pth" for name in ("extension", "persistent", "dotted", "obj")}
    for path in paths:
        assert main([str(path), str(tmp_path / "out" / "out.pth")]) == 2, path.name
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: "), error
        assert error.count("\n") == 1, error
        assert len(error) < 1500, error
        if path.name.startswith("code_") and path.name not in nameless:
            assert "nothing was executed" in error, error
        if path.name != "content_converted.pth":
            with pytest.raises(CheckpointError, match=path.name):
                load_converted(path)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / hostile.CANARY).exists()
    pickle.loads(dict(hostile.files_that_run_code())["protocol_2"])  # as an unsafe reader does
    assert (tmp_path / hostile.CANARY).exists()


# ---------------------------------------------------------------------------------------------
# Files that nobody thought of

BASES = [
    *hostile.valid_files().values(),
    *(data for _, data in hostile.files_that_run_code() if len(data) < 4000),
]
# Bytes that mean something to pickle and to zip
TOKENS = [b".", b"R", b"c", b"\x93", b"\x81", b"b", b"Q", b"(", b"t", b"0", b"2", b"PK\x01\x02"]
TOKENS += [b"cos\nmkdir\n", b"c__builtin__\neval\n", b"\x8c\x06canary", b"\xff\xff\xff\xff"]
CHUNK = st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=16))
PLACE = st.floats(0, 1, exclude_max=True)
MUTATION = st.tuples(st.sampled_from(("set", "insert", "cut", "copy")), PLACE, PLACE, CHUNK)


def mutated(data, mutations):
    for kind, share, other, chunk in mutations:
        place, source = int(share * len(data)), int(other * len(data))
        new = data[source : source + 64] if kind == "copy" else b"" if kind == "cut" else chunk
        old = {"set": len(chunk), "cut": 1 + len(chunk) ** 2}.get(kind, 0)
        data = data[:place] + new + data[place + old :]
    return data


@st.composite
def damaged(draw):
    """A good or an evil file with other bytes; of a zip file perhaps in its content alone."""
    base, mutations = draw(st.sampled_from(BASES)), draw(st.lists(MUTATION, min_size=1, max_size=4))
    if not base.startswith(b"PK") or draw(st.booleans()):
        return mutated(base, mutations)

    def change(name, content):
        return [(name, mutated(content, mutations) if name.endswith(".pkl") else content, 0)]

    return hostile.rezipped(base, change)


WORDS = ["module", "encoder", "encoder_q", "encoder_k", "backbone", "bottom_up", "0", "layer1"]
WORDS += ["conv1", "weight", "fc", "stem", "res2", "norm", "queue", "model", "state_dict", ""]
KEY = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(".".join)
VALUE = st.one_of(
    st.sampled_from([torch.zeros(3), torch.zeros(64, 3, 7, 7), torch.zeros(()), torch.ones(2) / 0]),
    st.sampled_from([np.zeros(3), np.float64(2), np.zeros((64, 64, 1, 1), np.float16)]),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
)
KEYS = KEY | st.integers() | st.text(max_size=5)
STATE = st.dictionaries(KEYS, VALUE, max_size=8)
CONTENT = st.dictionaries(KEYS, VALUE | STATE | st.lists(VALUE, max_size=3), max_size=6)
SOUND = st.builds(
    lambda value, write: write(value), CONTENT, st.sampled_from((hostile.zipped, hostile.legacy))
)


@pytest.mark.parametrize("examples", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_fuzzing_finds_no_file_that_runs_code_or_ends_otherwise_than_in_a_checkpoint_error(
    examples, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "fuzzed.pth"
    tried = []

    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damaged() | SOUND, st.sampled_from(["auto", *METHODS]))
    def attempt(data, method):
        path.write_bytes(data)
        tried.append(method)
        with contextlib.suppress(CheckpointError):
            find_backbone(read(path, allowed(method)), method)
        with contextlib.suppress(CheckpointError):
            load_converted(path)

    attempt()
    assert len(tried) >= examples
    assert not (tmp_path / hostile.CANARY).exists()
