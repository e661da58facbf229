"""Which image comes next, and with which random numbers: a pure function of the seed and the place in the run.

So a run resumed at iteration n goes on with the very draws of the run that was never stopped, for any number of
workers; two processes see the two halves of one process's doubled batch; no iteration is lost at an epoch's end.
"""
from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class Draw(int):
    """Index of an image that knows which draw of the whole run it is."""
    number: int

    def __new__(cls, index: int, number: int) -> Draw:
        draw = super().__new__(cls, index)
        draw.number = number
        return draw

    def __getnewargs__(self) -> tuple[int, int]:
        return int(self), self.number


class RunSampler(Sampler):
    """Batches of :class:`Draw` for iterations ``start_iter + 1`` to ``total_iter``, this process's share of each.

    All images are gone through in a new order each epoch; a batch may reach into the next epoch.
    """

    def __init__(self, num_images: int, batch_size: int, start_iter: int, total_iter: int, seed: int, rank: int = 0,
                 world_size: int = 1) -> None:
        self.num_images, self.batch_size, self.seed = num_images, batch_size, seed
        self.start_iter, self.total_iter = start_iter, total_iter
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return self.total_iter - self.start_iter

    def __iter__(self) -> Iterator[list[Draw]]:
        epoch, order = -1, None
        for iteration in range(self.start_iter, self.total_iter):
            first = (iteration * self.world_size + self.rank) * self.batch_size
            batch = []
            for number in range(first, first + self.batch_size):
                if number // self.num_images != epoch:
                    epoch = number // self.num_images
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_images)
                batch.append(Draw(order[number % self.num_images], number))
            yield batch


class SeededDataset(Dataset):
    """Any dataset, its random numbers (Python's, NumPy's, torch's) seeded by the draw; the process's own untouched."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: Draw) -> Any:
        with _random_state_kept():
            seed = int(np.random.SeedSequence((self.seed, draw.number)).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)
            return self.dataset[int(draw)]


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
