from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import basicsr_sassid  # noqa: F401

ROOT = Path(__file__).parents[1]
os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before any test or fixture asks the driver: it remembers its first answer
REAL_DATA = Path(os.environ.get('SASSID_TEST_DATA', ROOT.parent / 'shared' / 'data'))


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Six noisy 64x80 PNGs of different smooth scenes."""
    import cv2
    folder = tmp_path / 'noisy'
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        scene = cv2.resize(rng.uniform(40, 210, (6, 7, 3)), (80, 64), interpolation=cv2.INTER_CUBIC)
        noise = cv2.GaussianBlur(rng.normal(0, 40, scene.shape), (0, 0), 0.8)
        cv2.imwrite(str(folder / f'{number}.png'), (scene + noise).clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture
def real_pairs() -> tuple[Path, Path]:
    folder = REAL_DATA / 'sidd_val'
    if not folder.is_dir():
        pytest.skip(f'the real photographs are not here: {folder} (set SASSID_TEST_DATA)')
    return folder / 'noisy', folder / 'clean'


def tiny_options(photographs: Path, **train) -> dict:
    """A three-stage training that takes milliseconds an iteration."""
    stage = {'iter': 4, 'optim': {'type': 'Adam', 'lr': 1e-3}, 'scheduler': {'type': 'CosineAnnealingLR'}}
    return {
        'name': 'tiny', 'model_type': 'ThreeStageModel', 'num_gpu': 0, 'manual_seed': 3,
        'datasets': {'train': {'name': 'noisy', 'type': 'NoisyImageDataset', 'dataroot_lq': str(photographs),
                               'patch_size': 32, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}},
        'network_bnn': {'type': 'BNN', 'dim': 4}, 'network_lan': {'type': 'LAN', 'dim': 8, 'num_block': 2},
        'network_g': {'type': 'DenoisingUNet', 'dim': 4}, 'path': {},
        'train': {'precision': 'fp32', 'stages': {name: {**stage} for name in ('bnn', 'lan', 'unet')}, **train},
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 3}}


def run_module(module: str, *arguments: str, cwd: Path, check: bool = True, launcher: tuple[str, ...] = (),
               **kwargs) -> subprocess.CompletedProcess:
    """``python -m module`` as a user would, from another folder than the clone."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-m', *launcher, module, *arguments], cwd=cwd, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False, **kwargs)
    if check and done.returncode:
        raise AssertionError(f'{module} {arguments} ended with {done.returncode}:\n{done.stdout[-5000:]}')
    return done


def run_code(code: str, cwd: Path) -> subprocess.CompletedProcess:
    """Python lines in a process group of their own, which they may kill."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run([sys.executable, '-c', code], cwd=cwd, env=environment, start_new_session=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
