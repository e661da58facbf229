"""Pairs, networks and options for the tests of evaluation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr_sassid.evaluation import methods
from basicsr_sassid.evaluation.context import Method, MethodType
from basicsr_sassid.evaluation.runner import check_benchmark
from basicsr_sassid.evaluation.schema import NoisyOptions
from basicsr_sassid.io.checkpoint import build_network

from helpers import ROOT

OPTION_FILES = sorted((ROOT / 'options/evaluation').glob('*.yml'))
SIZE = (128, 144)  # pixels: no smaller image is used for the blend


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_pairs(tmp_path / 'set')


def write_pairs(folder: Path) -> Path:
    """Five noisy scenes of 128x144 and their clean references; the noise is correlated."""
    rng = np.random.default_rng(0)
    for number in range(5):
        scene = cv2.resize(rng.uniform(60, 190, (4, 5, 3)), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        noise = cv2.GaussianBlur(rng.normal(0, 30, scene.shape), (0, 0), 0.9)
        for name, image in (('noisy', scene + noise), ('clean', scene)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f'{number}.png'), image.clip(0, 255).round().astype(np.uint8))
    return folder


@pytest.fixture
def network(tmp_path) -> Path:
    """Weights of a small U-Net."""
    save_network(tmp_path / 'net.pth', 0)
    return tmp_path / 'net.pth'


def save_network(path: Path, seed: int) -> None:
    block = {'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 4}
    torch.manual_seed(seed)
    torch.save({'params': build_network(block, 'x').state_dict(), 'network': block}, path)


def options(pairs: Path, **blocks: dict) -> dict:
    return {
        'name': 'x',
        'device': 'cpu',
        'methods': blocks,
        'datasets': {'set': {'dataroot_lq': str(pairs / 'noisy'), 'dataroot_gt': str(pairs / 'clean')}},
    }


def arrays(pairs: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        tuple(cv2.imread(str(pairs / folder / f'{number}.png'))[..., ::-1].copy() for folder in ('noisy', 'clean'))
        for number in range(5)
    ]


def parsed(block: dict):
    """The typed options of one method."""
    return check_benchmark({'name': 'x', 'methods': {'a': block}, 'datasets': {}}).methods['a']


def replace_method(monkeypatch, name: str, run) -> None:
    """Register ``run`` as a method type without options."""
    monkeypatch.setitem(methods.METHODS, name, MethodType(NoisyOptions, lambda options, context: Method(run)))
