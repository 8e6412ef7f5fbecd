"""Which image a run reads at which micro-step: a function of the seed and the position alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pretrain.data.folder import DataError


@dataclass
class PositionSampler:
    """One rank's micro-batches of (epoch, index), from micro-step ``start`` to the run's end.

    Every epoch is a new permutation, padded by its own beginning to a multiple of ``world_size``
    and dealt out in turn; the incomplete last micro-batch of an epoch is dropped.
    """

    num_images: int
    batch_size: int
    epochs: int
    seed: int
    rank: int = 0
    world_size: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        self.length = epoch_length(self.num_images, self.batch_size, self.world_size)
        self.total = self.epochs * self.length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start // self.length, self.total // self.length):
            mine = self.order(epoch)[self.rank :: self.world_size].tolist()
            first = max(self.start - epoch * self.length, 0)
            for i in range(first, self.length):
                batch = mine[i * self.batch_size : (i + 1) * self.batch_size]
                yield [(epoch, index) for index in batch]

    def __len__(self) -> int:
        return self.total - self.start

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's permutation of all images, padded; the same on every rank."""
        permutation = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
        padded = -(-self.num_images // self.world_size) * self.world_size
        return np.resize(permutation, padded)


def epoch_length(num_images: int, batch_size: int, world_size: int = 1) -> int:
    """Micro-steps per epoch. Raises DataError when the images do not fill one."""
    length = -(-num_images // world_size) // batch_size
    if length == 0:
        raise DataError(
            f"{num_images} images do not fill one micro-batch of {batch_size} on each of "
            f"{world_size} processes: lower SOLVER.BATCH_SIZE_PER_GPU or add images"
        )
    return length
