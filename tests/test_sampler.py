"""Order of the images and their random numbers."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from torch.utils.data import DataLoader

from basicsr_sassid.data.sampler import Draw, RunSampler, SeededDataset


@pytest.fixture
def dataset(photographs):
    return build_dataset(
        {
            'name': 'noisy',
            'type': 'NoisyImageDataset',
            'dataroot_lq': str(photographs),
            'phase': 'train',
            'patch_size': 32,
        }
    )


class RandomNumbers(torch.utils.data.Dataset):
    """As a stock dataset draws them: from Python, NumPy or torch."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(1).item()])


def batches(dataset, workers=0, start=0, total=12, rank=0, world_size=1, batch_size=3):
    sampler = RunSampler(len(dataset), batch_size, start, total, 5, rank, world_size)
    return [batch['lq'] for batch in DataLoader(SeededDataset(dataset, 5), batch_sampler=sampler, num_workers=workers)]


@pytest.mark.parametrize('workers', [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(dataset, workers):
    assert all(map(torch.equal, batches(dataset), batches(dataset, workers)))


def test_batches_of_a_resumed_run_are_those_of_the_uninterrupted_run(dataset):
    assert all(map(torch.equal, batches(dataset)[7:], batches(dataset, start=7)))


def test_batches_of_two_processes_are_halves_of_the_doubled_batch(dataset):
    halves = zip(*(batches(dataset, rank=rank, world_size=2, batch_size=2) for rank in (0, 1)))
    assert all(torch.equal(torch.cat(half), full) for half, full in zip(halves, batches(dataset, batch_size=4)))


@pytest.mark.parametrize('kind', [0, 1, 2], ids=['python', 'numpy', 'torch'])
def test_seeded_dataset_random_numbers_are_new_in_each_epoch(kind):
    """Stock workers seed Python and NumPy alike every epoch."""
    sampler = RunSampler(4, 4, 0, 3, seed=0)
    epochs = list(DataLoader(SeededDataset(RandomNumbers(), 0), batch_sampler=sampler, num_workers=2))
    assert len(torch.cat(epochs)[:, kind].unique()) == 12


def test_seeded_dataset_restores_the_process_random_states():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert len(SeededDataset(RandomNumbers(), 0)[Draw(0, 1)]) == 3
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_run_sampler_each_epoch_visits_all_images_in_a_new_order():
    order = [draw.index for batch in RunSampler(7, 3, 0, 14, seed=1) for draw in batch]
    epochs = [tuple(order[start : start + 7]) for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) == 6


def test_run_sampler_numbers_the_draws_of_the_run():
    assert [draw.number for batch in RunSampler(7, 3, 2, 4, seed=1) for draw in batch] == list(range(6, 12))


def test_run_sampler_known_seed_gives_the_recorded_order():
    """The order that seed 3 has given since the first version: an old run resumes with the same images."""
    expected = [int(index) for epoch in (0, 1) for index in np.random.default_rng((3, epoch)).permutation(5)]
    assert [draw.index for batch in RunSampler(5, 2, 0, 5, seed=3) for draw in batch] == expected


def test_draw_pickled_is_unchanged():
    assert pickle.loads(pickle.dumps(Draw(3, 99))) == Draw(index=3, number=99)
