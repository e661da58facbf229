from __future__ import annotations

import os
import random
from pathlib import Path

os.environ['CUDA_VISIBLE_DEVICES'] = ''  # before anything asks the driver: it remembers its first answer

import cv2
import numpy as np
import pytest
import torch

import basicsr_sassid  # noqa: F401

from clean_runs import instant_run, trained_run  # noqa: F401  fixtures
from clip_models import clip_model, clip_registry, clip_weights  # noqa: F401  fixtures
from evaluation_scenes import network, pairs  # noqa: F401  fixtures
from helpers import REAL_DATA
from sfd_scenes import realworld_options, sfd_options, squeezenet  # noqa: F401  fixtures


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def write_photographs(folder: Path) -> Path:
    """Six noisy 64x80 PNGs of different smooth scenes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        scene = cv2.resize(rng.uniform(40, 210, (6, 7, 3)), (80, 64), interpolation=cv2.INTER_CUBIC)
        noise = cv2.GaussianBlur(rng.normal(0, 40, scene.shape), (0, 0), 0.8)
        cv2.imwrite(str(folder / f'{number}.png'), (scene + noise).clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Folder of six noisy photographs, which a test may change."""
    return write_photographs(tmp_path / 'noisy')


@pytest.fixture(scope='session')
def noisy_folder(tmp_path_factory) -> Path:
    """The same photographs for all tests of a session."""
    return write_photographs(tmp_path_factory.mktemp('photographs') / 'noisy')


@pytest.fixture
def real_data() -> Path:
    """Folder of real photographs: sidd_val, polyu, each with noisy and clean."""
    if REAL_DATA is None or not REAL_DATA.is_dir():
        pytest.skip('no real photographs: set SASSID_TEST_DATA')
    return REAL_DATA


@pytest.fixture
def real_pairs(real_data) -> tuple[Path, Path]:
    """Folders of noisy and clean blocks of SIDD validation."""
    return real_data / 'sidd_val' / 'noisy', real_data / 'sidd_val' / 'clean'
