"""Dataset of clean images with synthetic noise, for supervised training and for evaluation at a known noise.

White Gaussian noise of a random sigma, and the noise-level map as an input: FFDNet (Zhang, Zuo, Zhang, IEEE TIP 2018,
arXiv 1710.04026, section III). D2SM trains at the same sigmas (Mei et al., ECCV 2022, arXiv 2207.09302).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from basicsr_sassid.data.photo_dataset import PhotoDataset, as_tensor, random_crop
from basicsr_sassid.data.synthetic_schema import NoiseOptions, SyntheticNoiseOptions
from basicsr_sassid.noise.synthetic import simulate_camera
from basicsr_sassid.utils.errors import UserError


@DATASET_REGISTRY.register()
class SyntheticNoiseDataset(PhotoDataset):
    """Clean images, from a folder (searched below, sorted) or a BasicSR LMDB, with noise that is added on reading.

    A sample is ``{'lq': (3, H, W), 'gt': (3, H, W) in [0, 1], 'lq_path': str, 'gt_path': str}``, float32 RGB. Both
    paths are the clean image's. Grey is repeated, alpha left out, 16 bits keep their precision (``camera``: 8 bits).

    - Noise ``awgn``: ``lq`` is ``gt`` plus white Gaussian noise. It is not clipped to [0, 1] nor rounded, as published:
      clipping would give the noise of dark and bright areas another mean and a smaller sigma.
    - Noise ``camera``: both are photographs of :func:`simulate_camera`, in steps of 1 / 255. ``gt`` is the one without
      noise, which demosaicking makes softer than the clean image.
    - With ``noise_map``, ``lq`` is (4, H, W): its last channel is sigma / 255 everywhere.

    Phase ``train``: crop, symmetry and noise come from torch's random generator, which the training loop seeds for
    every draw, so they do not depend on the number of workers. Other phases: whole images, whose noise is a function
    of ``seed`` and the image's name (the path below ``dataroot_gt``, or the key in the LMDB) alone.

    The noise of a training image differs from draw to draw, so teacher predictions cannot be cached: the dataset does
    not satisfy :class:`WholeImageDataset`.

    Args:
        opt: option block, see :class:`SyntheticNoiseOptions`.

    Attributes:
        noise: what is added.
        noise_map: whether ``lq`` has a fourth channel.
        seed: of the noise outside phase ``train``.

    Raises:
        UserError: as :class:`PhotoDataset`; an unknown key, a value out of its range, a range of ``sigma`` or
            ``photons`` outside phase ``train``, or an image that is too small for the camera's mosaic.
    """

    option_schema = SyntheticNoiseOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        where = f'datasets.{opt.get("phase", "train")}'
        options = SyntheticNoiseOptions.from_options(opt, where)
        if options.phase != 'train':
            options.check_fixed_noise(where)
        super().__init__(opt, options, 'dataroot_gt', where)
        self.noise, self.noise_map, self.seed = options.noise, options.noise_map, options.seed
        if self.noise.type == 'camera':
            self._check_mosaic(where)

    def _check_mosaic(self, where: str) -> None:
        for path, size in zip(self.paths, self.sizes):
            height, width = (self.patch_size, self.patch_size) if self.patch_size is not None else size
            if min(height, width) < 2:
                raise UserError(
                    f'{where}.noise.type: camera needs 2x2 pixels or more, got {height}x{width} (height x width) of '
                    f'{path}. Choose a larger patch_size, or take that image out.'
                )

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        clean, path = self.image(index), self.paths[index]
        if self.patch_size is not None:
            clean = random_crop({'lq': clean}, self.patch_size, self.options.use_hflip, self.options.use_rot)['lq']
        rng = np.random.default_rng(self._noise_seed(path))
        if self.noise.type == 'camera':
            noisy, clean = _add_camera_noise(clean, self.noise, rng)
        else:
            noisy = _add_gaussian_noise(clean, _draw(self.noise.sigma, rng) / 255, rng, self.noise_map)
        return {'lq': as_tensor(noisy), 'gt': as_tensor(clean), 'lq_path': path, 'gt_path': path}

    def _noise_seed(self, path: str) -> int:
        if self.options.phase == 'train':
            return int(torch.randint(2**63 - 1, ()))
        name = path if self.is_lmdb else Path(path).relative_to(self.root).as_posix()
        digest = hashlib.sha256(f'{self.seed}/'.encode() + os.fsencode(name)).digest()  # hash() differs per process
        return int.from_bytes(digest[:16], 'little')


def _draw(value: float | list[float], rng: np.random.Generator, log_uniform: bool = False) -> float:
    """The number itself, or one from the range [low, high]."""
    if not isinstance(value, list):
        return value
    low, high = value
    return math.exp(rng.uniform(math.log(low), math.log(high))) if log_uniform else rng.uniform(low, high)


def _add_gaussian_noise(clean: np.ndarray, sigma: float, rng: np.random.Generator, noise_map: bool) -> np.ndarray:
    """(H, W, 3) in [0, 1] -> the same with noise, not clipped; with the map (H, W, 4). ``sigma``: in [0, 1]."""
    noisy = clean + np.float32(sigma) * rng.standard_normal(clean.shape, np.float32)
    return np.dstack((noisy, np.full(clean.shape[:2], sigma, np.float32))) if noise_map else noisy


def _add_camera_noise(
    clean: np.ndarray, noise: NoiseOptions, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(noisy, reference): both (H, W, 3) float32 in [0, 1], of a clean image in [0, 1]."""
    photons = _draw(noise.photons, rng, log_uniform=True)
    scene = np.round(clean * 255).astype(np.uint8)
    noisy, reference = simulate_camera(scene, rng, photons, noise.read_noise, noise.jpeg_quality)
    return noisy.astype(np.float32) / 255, reference.astype(np.float32) / 255
