"""``python -m tests.transfer.fuzz EXAMPLES``: the converter meets files that nobody thought of.

In a process of its own, in a limited memory, since what is sought may end the process.
"""

import contextlib
import resource
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transfer import hostile
from transfer.checkpoints import METHODS, CheckpointError
from transfer.convert import convert
from transfer.reading import load_converted, read_checkpoint

SECONDS = 20  # at most, for one file
PATH = Path(tempfile.mkdtemp()) / "fuzzed.pth"
OUTCOMES = Counter()


def attempt(data, method="auto"):
    """Whatever ``data`` is, it is read and converted, or it is a CheckpointError."""
    PATH.write_bytes(data)
    signal.alarm(SECONDS)
    try:
        loaded = read_checkpoint(PATH, method)
        OUTCOMES["read"] += 1
        convert(loaded, method)
        OUTCOMES["converted"] += 1
    except CheckpointError:
        OUTCOMES["refused"] += 1
    with contextlib.suppress(CheckpointError):
        load_converted(PATH)
    signal.alarm(0)
    OUTCOMES["tried"] += 1


# ---------------------------------------------------------------------------------------------
# Damage to good and to evil files

BASES = [
    *hostile.valid_files().values(),
    hostile.zipped(hostile.released(hostile.tiny_trunk())),
    hostile.legacy(hostile.released(hostile.tiny_trunk())),
    *(data for _, data in hostile.files_that_run_code() if len(data) < 4000),
]
# Bytes that mean something to pickle and to zip.
TOKENS = [b".", b"R", b"c", b"\x93", b"\x81", b"b", b"Q", b"(", b"t", b"0", b"2", b"PK\x01\x02"]
TOKENS += [
    b"cos\nmkdir\n",
    b"c__builtin__\neval\n",
    b"\x8c\x06canary",
    b"\xff\xff\xff\xff",
    b"\x00",
]
CHUNK = st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=16))
PLACE = st.floats(0, 1, exclude_max=True)
MUTATION = st.tuples(st.sampled_from(("set", "insert", "cut", "copy")), PLACE, PLACE, CHUNK)


def mutated(data, mutations):
    for kind, share, other, chunk in mutations:
        place, source = int(share * len(data)), int(other * len(data))
        if kind == "set":
            data = data[:place] + chunk + data[place + len(chunk) :]
        elif kind == "insert":
            data = data[:place] + chunk + data[place:]
        elif kind == "cut":
            data = data[:place] + data[place + 1 + len(chunk) ** 2 :]
        else:
            data = data[:place] + data[source : source + 64] + data[place:]
    return data


@given(st.sampled_from(BASES), st.lists(MUTATION, min_size=1, max_size=4))
def damaged_bytes(base, mutations):
    attempt(mutated(base, mutations))


# The content of a zip file, damaged within a directory that fits it.
PICKLES = [
    hostile.zipped(value)
    for value in (hostile.released(hostile.tiny_trunk()), {"lr": np.float64(1), "a": np.zeros(3)})
]


@given(st.sampled_from(PICKLES), st.lists(MUTATION, min_size=1, max_size=4))
def damaged_pickle_in_a_sound_zip(base, mutations):
    def change(name, content):
        return [(name, mutated(content, mutations) if name.endswith(".pkl") else content, 0)]

    attempt(hostile.rezipped(base, change))


# ---------------------------------------------------------------------------------------------
# Sound files with any content

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


@given(
    CONTENT, st.sampled_from(["auto", *METHODS]), st.sampled_from((hostile.zipped, hostile.legacy))
)
def any_content(content, method, write):
    attempt(write(content), method)


def main(examples):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (8 << 30),) * 2)
    every = settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    for check in (damaged_bytes, damaged_pickle_in_a_sound_zip, any_content):
        every(check)()
        print(check.__name__, dict(OUTCOMES), flush=True)
        OUTCOMES.clear()


if __name__ == "__main__":
    main(int(sys.argv[1]))
