"""Order of the training images and seeds of their random numbers: a pure function of the seed and the iteration.

A run resumed at iteration n draws the samples of the uninterrupted run, for any number of workers. Two processes draw
the two halves of one process's doubled batch. No iteration is lost at an epoch's end.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class Draw(NamedTuple):
    """One sample of the run.

    Attributes:
        index: of the image in the dataset.
        number: of this draw among all draws of the run, from 0.
    """

    index: int
    number: int


class RunSampler(Sampler[list[Draw]]):
    """Batches of :class:`Draw` for iterations ``start_iter + 1`` to ``total_iter``: this process's part of each.

    Each epoch visits all images in a new order; a batch may reach into the next epoch.

    Args:
        num_images: length of the dataset.
        batch_size: samples of a batch of one process.
        start_iter: iterations that are done.
        total_iter: last iteration.
        seed: of the orders.
        rank, world_size: this process among those of the run.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        start_iter: int,
        total_iter: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.start_iter, self.total_iter = start_iter, total_iter
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.total_iter - self.start_iter

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, np.empty(0, int)
        for iteration in range(self.start_iter, self.total_iter):
            first = (iteration * self.world_size + self.rank) * self.batch_size
            batch: list[Draw] = []
            for number in range(first, first + self.batch_size):
                if number // self.num_images != epoch:
                    epoch = number // self.num_images
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
                batch.append(Draw(int(order[number % self.num_images]), number))
            yield batch


class SeededDataset(Dataset[Any]):
    """Any dataset, with Python's, NumPy's and torch's random numbers seeded by the draw.

    The random states of the process are restored after each sample.

    Args:
        dataset: takes an index.
        seed: of the run.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)  # pyright: ignore[reportArgumentType]  torch's Dataset declares no length

    def __getitem__(self, draw: Draw) -> Any:
        with restored_random_state():
            seed = int(np.random.SeedSequence((self.seed, draw.number)).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            return self.dataset[draw.index]


@contextlib.contextmanager
def restored_random_state() -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch (of the CPU) at the end of the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
