"""One data set for all tests of scenes, and the scenes that were drawn for it."""

import pytest

from benchmarks.scenes.generate import generate
from benchmarks.scenes.scene import make_scene
from tests.benchmarks.scenes.drawn import REQUEST, SPLITS, read_json


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "out"
    generate(folder, REQUEST, workers=2)
    return folder


@pytest.fixture(scope="session")
def scenes():
    """The same images as in ``out``, with what is known beyond the labels."""
    return {
        split: [make_scene(REQUEST.seed, split, i, REQUEST.longest_side) for i in range(count)]
        for split, count in SPLITS.items()
    }


@pytest.fixture(scope="module")  # the evaluation adds to them
def labels(out):
    return {split: read_json(out, f"instances_{split}2017") for split in SPLITS}
