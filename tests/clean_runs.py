"""Two noisy photographs, and runs of `sassid clean` whose networks train in milliseconds."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from basicsr.metrics import calculate_psnr

from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.pipeline import run, student
from basicsr_sassid.pipeline.api import clean_photos
from basicsr_sassid.pipeline.planning import Budget
from basicsr_sassid.pipeline.state import RunState
from basicsr_sassid.training.budget import Plan

PLAN = Plan({'bnn': 12, 'unet': 10}, dict.fromkeys(('bnn', 'unet'), 0.1), 'off', 0.0)


@functools.cache
def scenes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (noisy, clean), (320, 400, 3) uint8: noise of sigma 20, correlated over 3 pixels."""
    rng = np.random.default_rng(0)
    pairs = {}
    for name, photograph in (('cat', skimage.data.chelsea()), ('coffee', skimage.data.coffee())):
        clean = cv2.resize(photograph, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)[200:520, 300:700]
        clean = (25 + 0.8 * clean).astype(np.uint8)
        noise = 2 * cv2.blur(rng.normal(0, 20, clean.shape), (2, 2))
        pairs[name] = (clean + noise).clip(0, 255).round().astype(np.uint8), clean
    return pairs


def noisy_cat() -> np.ndarray:
    return scenes()['cat'][0]


def crops_and_references() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Noisy and clean (256, 256, 3) float32 in [0, 1] of both scenes."""
    noisy, clean = zip(*[[image[:256, :256].astype(np.float32) / 255 for image in pair] for pair in scenes().values()])
    return list(noisy), list(clean)


def write_scenes(folder: Path, height: int = 320, width: int = 400) -> Path:
    """cat.png and coffee.png, or their upper left corners, where a test is about files rather than pictures."""
    for name, (noisy, _) in scenes().items():
        write_photo(Photo(noisy[:height, :width]), folder / f'{name}.png')
    return folder


def shrink_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks and patches, and a few iterations whatever the minutes: nothing is measured."""
    shrink_networks(monkeypatch)
    monkeypatch.setattr(student, 'PATCH_SIZE', 64)
    monkeypatch.setattr(student, '_HELD_OUT_SIDE', 64)
    monkeypatch.setattr(run, 'measure_denoising', lambda *_: 0.0)
    monkeypatch.setattr(run, 'plan_run', lambda *_: (Budget(1, 0.0, 0.0, 0.0, 0.0), PLAN))
    monkeypatch.setattr(run, 'correct_plan', lambda plan, *_: plan)


def shrink_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    customize = student.customize

    def small(*arguments):
        opt = customize(*arguments)
        opt['network_bnn']['dim'], opt['network_g']['dim'] = 4, 4
        opt['datasets']['train'].update(batch_size_per_gpu=1, num_worker_per_gpu=0)
        return opt

    monkeypatch.setattr(student, 'customize', small)


@pytest.fixture(scope='session')
def instant_run(tmp_path_factory) -> Path:
    """Folder with photos/ and out/ of a run without training, for all tests; those that write take a copy."""
    root = tmp_path_factory.mktemp('instant')
    clean_photos([write_scenes(root / 'photos')], root / 'out', effort='instant')
    return root


@pytest.fixture(scope='session')
def trained_run(tmp_path_factory) -> Path:
    """The same of a run with a worthless student, which is in student.safetensors."""
    root = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        shrink_training(patch)
        clean_photos(
            [write_scenes(root / 'photos')], root / 'out', minutes=1, save_weights=root / 'student.safetensors'
        )
    return root


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any further training fails."""
    monkeypatch.setattr(run, 'StudentTraining', None)


def run_folder(output: Path) -> Path:
    """The folder of the only run below an output."""
    (folder,) = (path for path in (output / '.sassid').iterdir() if path.is_dir())
    return folder


def state_of(output: Path) -> RunState:
    return RunState.load(run_folder(output) / 'state.json')


def mean_gain(output: Path) -> float:
    """dB by which the denoised scenes exceed the noisy ones."""
    return float(
        np.mean(
            [
                calculate_psnr(read_photo(output / f'{name}.png').pixels, clean, 0) - calculate_psnr(noisy, clean, 0)
                for name, (noisy, clean) in scenes().items()
            ]
        )
    )
