"""The training stream: which images, in which batches, augmented how. All of it from the seed.

Detectron2's loader decodes images before it groups them, its order depends on the number of workers
and it starts anew when a run is resumed. Here its sampler is grouped before anything is decoded, so
that a resumed run goes on with the batch, the half-filled groups and the augmentation that an
uninterrupted one would have had, whatever the number of workers.
"""

import itertools
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    DatasetMapper,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.build import _train_loader_from_config as detectron2_parts
from detectron2.data.common import AspectRatioGroupedDataset
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from pretrain.runtime.config import ConfigError
from transfer.data.densepose import keep_for_testing, keep_for_training
from transfer.densepose.mapper import DensePoseMapper

SAMPLER, SAMPLE, STEP, PRECISE_BN = range(4)  # what is drawn; each has seeds of its own

Place = tuple[int, int]  # position in the stream over all ranks, index into the data set


def seed_rng(*key: int) -> None:
    """Seed Python, numpy and torch (CPU and GPU) with a hash of whole numbers from 0 on."""
    torch.manual_seed(_seed_cpu(*key))


def _seed_cpu(*key: int) -> int:
    """Seed what draws on the CPU; returns torch's seed."""
    words = np.random.SeedSequence(key).generate_state(2, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[0]) % 2**32)
    seed = int(words[1]) >> 1
    torch.default_generator.manual_seed(seed)
    return seed


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Inside, the CPU's random numbers follow from ``key``; outside, as if nothing was drawn."""
    earlier = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        _seed_cpu(*key)
        try:
            yield
        finally:
            random.setstate(earlier[0])
            np.random.set_state(earlier[1])


class Samples(Dataset):
    """The mapped images of a training set, augmented by a random stream of each position's own."""

    def __init__(self, dicts: list[dict[str, Any]], mapper: DatasetMapper, seed: int) -> None:
        self.dicts, self.mapper, self.seed = DatasetFromList(dicts, copy=False), mapper, seed

    def __getitem__(self, place: Place) -> dict[str, Any]:
        position, index = place
        with seeded(self.seed, SAMPLE, position):
            return self.mapper(self.dicts[index])


@dataclass
class Batches:
    """An endless sampler's indices in batches, from batch number ``start`` on.

    shapes: height and width of every image, as AspectRatioGroupedDataset reads them, where only
    images of similar aspect ratio share a batch; None for batches in the sampler's order.
    """

    sampler: Iterable[int]
    shapes: list[dict[str, int]] | None
    batch_size: int
    start: int = 0

    def __iter__(self) -> Iterator[list[Place]]:
        places = zip(itertools.count(comm.get_rank(), comm.get_world_size()), self.sampler)
        if self.shapes is None:
            batches = iter(lambda: list(itertools.islice(places, self.batch_size)), [])
        else:
            shaped = (self.shapes[place[1]] | {"place": place} for place in places)
            batches = (
                [image["place"] for image in group]
                for group in AspectRatioGroupedDataset(shaped, self.batch_size)
            )
        return itertools.islice(batches, self.start, None)


class Stream:
    """All that a training reads: for its steps, and for PreciseBN."""

    def __init__(self, cfg: CfgNode) -> None:
        with seeded(cfg.SEED, SAMPLER):  # a sampler takes its seed from numpy's
            parts = _parts(cfg)
        self._samples = Samples(parts["dataset"], parts["mapper"], cfg.SEED)
        self._sampler, self._shapes = parts["sampler"], None
        if parts["aspect_ratio_grouping"]:
            self._shapes = [
                {k: image[k] for k in ("height", "width")} for image in parts["dataset"]
            ]
        self._batch_size = parts["total_batch_size"] // comm.get_world_size()

    def loader(self, num_workers: int, start: int = 0) -> DataLoader:
        """Endless batches from number ``start`` on, each a list of this rank's mapped images."""
        return DataLoader(
            self._samples,
            batch_sampler=Batches(self._sampler, self._shapes, self._batch_size, start),
            num_workers=num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # iterating draws from it, not from the training's
            persistent_workers=num_workers > 0,
        )


def _parts(cfg: CfgNode) -> dict[str, Any]:
    """What Detectron2's training loader is made of; with DensePose, its images and its mapper."""
    if not cfg.MODEL.DENSEPOSE_ON:
        return detectron2_parts(cfg)
    sampler = cfg.DATALOADER.SAMPLER_TRAIN
    if sampler.startswith("Weighted"):  # it has indices of all images, also of those left out
        raise ConfigError(
            f"DATALOADER.SAMPLER_TRAIN {sampler}: does not know which images DensePose leaves out. "
            "Add: DATALOADER.SAMPLER_TRAIN TrainingSampler"
        )
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    mapper = DensePoseMapper(cfg, is_train=True)
    return detectron2_parts(cfg, mapper, dataset=keep_for_training(records, cfg))


def evaluation_loader(cfg: CfgNode, dataset_name: str) -> DataLoader:
    """Detectron2's loader of a test set; with DensePose, its images and its mapper."""
    if not cfg.MODEL.DENSEPOSE_ON:
        return build_detection_test_loader(cfg, dataset_name)
    records = get_detection_dataset_dicts(dataset_name, filter_empty=False)
    return build_detection_test_loader(
        keep_for_testing(records, cfg),
        mapper=DensePoseMapper(cfg, is_train=False),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
