import itertools
import random

import numpy as np
import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm

from transfer.config import default_config
from transfer.data.stream import Batches, Samples, Stream, seed_rng, seeded

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES, BATCH = 11, 3
DICTS = [
    {"file_name": f"{k}.jpg", "height": 4 + k % 3, "width": 5, "image_id": k} for k in range(IMAGES)
]


class Mapper:
    """Draws from all three generators, as augmentations may; counts what it decodes."""

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return image | {"drawn": (random.random(), np.random.rand(), torch.rand(1).item())}


@pytest.fixture
def stream(monkeypatch):
    """A stream of DICTS that groups images by aspect ratio."""

    def parts(cfg):
        return {
            "dataset": DICTS,
            "sampler": TrainingSampler(IMAGES),
            "mapper": Mapper(),
            "total_batch_size": BATCH * comm.get_world_size(),
            "aspect_ratio_grouping": True,
        }

    monkeypatch.setattr("transfer.data.stream.detectron2_parts", parts)

    def build(seed=7):
        cfg = default_config()
        cfg.SEED = seed
        return Stream(cfg)

    return build


def take(stream, count, start=0, workers=0):
    return list(itertools.islice(stream.loader(workers, start), count))


def test_batches_are_those_of_detectron2s_own_loader(stream):
    with seeded(0):
        sampler = TrainingSampler(IMAGES, seed=5)
    theirs = build_detection_train_loader(
        DICTS, mapper=lambda image: image, sampler=sampler, total_batch_size=BATCH
    )
    places = itertools.islice(Batches(sampler, DICTS, BATCH), 20)
    ours = [[DICTS[index] for _, index in batch] for batch in places]
    assert ours == list(itertools.islice(theirs, 20))
    assert any(image["height"] == image["width"] for batch in ours for image in batch)


@pytest.mark.parametrize("start", [1, 9, 30])
def test_a_stream_goes_on_anywhere_as_if_it_had_never_stopped(stream, start):
    whole = take(stream(), start + 8)
    resumed = stream()
    assert take(resumed, 8, start) == whole[start:]
    assert resumed._samples.mapper.calls == 8 * BATCH  # what was left out was not decoded


def test_the_number_of_workers_changes_nothing(stream):
    assert take(stream(), 12, start=5, workers=2) == take(stream(), 12, start=5)


def test_ranks_share_one_stream_and_draw_each_for_itself(stream, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "all_gather", lambda value: [value, value])
    places = []
    for rank in (0, 1):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        own = stream()
        batches = Batches(own._sampler, None, IMAGES)
        places += itertools.chain(*itertools.islice(batches, 2))
    assert sorted(position for position, _ in places) == list(range(4 * IMAGES))
    epoch = [index for position, index in sorted(places)][:IMAGES]
    assert sorted(epoch) == list(range(IMAGES))


def test_a_sample_leaves_the_generators_as_they_were():
    samples = Samples(DICTS, Mapper(), seed=0)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_rng(1)
    expected = draw()
    seed_rng(1)
    first = samples[4, 0]["drawn"]
    assert draw() == expected
    assert samples[4, 0]["drawn"] == first != samples[5, 0]["drawn"]
