"""Datasets and trainings with synthetic noise, for tests."""

from __future__ import annotations

from pathlib import Path

from basicsr.data import build_dataset

from helpers import ANY_NETWORK

CAMERA = {'type': 'camera', 'photons': 80, 'read_noise': 2, 'jpeg_quality': None}  # a block `noise`


def synthetic_dataset(root: Path, **options):
    """A SyntheticNoiseDataset in phase train, unless ``options`` tell otherwise."""
    return build_dataset(
        {
            'name': 'synthetic',
            'type': 'SyntheticNoiseDataset',
            'dataroot_gt': str(root),
            'phase': 'train',
            'patch_size': 32,
            **options,
        }
    )


def synthetic_options(clean: Path) -> dict:
    """A training of stock SRModel and EDSR on clean images with synthetic noise, in milliseconds an iteration."""
    dataset = {'type': 'SyntheticNoiseDataset', 'dataroot_gt': str(clean)}
    return {
        'name': 'stock',
        'model_type': 'SRModel',
        'num_gpu': 0,
        'manual_seed': 1,
        'path': {},
        'datasets': {
            'train': {'name': 'train', **dataset, 'patch_size': 32, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0},
            'val': {'name': 'val', **dataset, 'noise': {'sigma': 25}},
        },
        'network_g': {**ANY_NETWORK},
        'train': {
            'total_iter': 4,
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'pixel_opt': {'type': 'L1Loss'},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [1000]},
        },
        'val': {'val_freq': 4, 'save_img': False, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}},
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 1000},
    }
