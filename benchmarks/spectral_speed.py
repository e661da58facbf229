"""The spectral denoiser against its first implementation (tests/reference_spectral.py): speed, difference, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch

from basicsr_sassid import NoiseModel, SpectralDenoiser, estimate_noise
from basicsr_sassid.inference.shrinkage import Shrinkage
from basicsr_sassid.noise.synthetic import simulate_camera

import reference_spectral
from timing import ROOT, compare

_MEMORY = """
import re, sys, numpy as np
from basicsr_sassid import SpectralDenoiser, estimate_noise
import reference_spectral
def peak():  # in MiB
    return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024
side = int(sys.argv[2])
rng = np.random.default_rng(0)
noisy = (128 + 10 * rng.standard_normal((500, 500, 3))).clip(0, 255).astype(np.uint8)
noise = estimate_noise([noisy])
image = np.tile(noisy, (side // 500, side // 500, 1))
before = peak()
(SpectralDenoiser if sys.argv[1] == 'ours' else reference_spectral.SpectralDenoiser)(noise)(image)
print(before, peak())
"""


def simulated_photograph(side: int) -> tuple[np.ndarray, NoiseModel]:
    """(side, side, 3) uint8 with camera noise, and its noise."""
    scene = cv2.resize(skimage.data.astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)
    noisy = simulate_camera(scene, np.random.default_rng(0), photons=80.0)[0]
    return noisy, estimate_noise([noisy])


def planes_of(noisy: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """(3, H, W) float32: opponent channels whose noise has variance 1."""
    opponent = reference_spectral.OPPONENT
    return np.ascontiguousarray(
        (opponent @ (noisy / noise.sigma.astype(np.float32))[..., None])[..., 0].transpose(2, 0, 1)
    )


def time_spectral(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """The same algorithm on one tile, then whole photographs by the denoiser's defaults and without grouping."""
    rows: dict[str, dict[str, float]] = {}
    noisy, noise = simulated_photograph(672)
    planes, sigma = planes_of(noisy, noise), float(noise.sigma.mean())
    powers = reference_spectral.block_powers(noise)
    shrinkage = Shrinkage([torch.from_numpy(power).to(device) for power in powers], grids=1, coarse_band=0.4)
    on_device = torch.from_numpy(planes).to(device)

    def first() -> np.ndarray:
        return reference_spectral.multiscale_planes(planes, powers)

    with torch.inference_mode():
        row = compare(first, lambda: shrinkage(on_device), rounds, device)
        difference = np.abs(shrinkage(on_device).cpu().numpy() - first()) * sigma
    row['megapixels_a_second'] = 0.672**2 / row['ours_seconds']
    row['mean_difference'] = float(difference.mean())
    row['99.9_percent_below'] = float(np.quantile(difference, 0.999))
    rows['same algorithm'] = row
    noisy, noise = simulated_photograph(1024)
    reference = reference_spectral.SpectralDenoiser(noise)
    for name, grouping in (('default', True), ('without grouping', False)):
        ours = SpectralDenoiser(noise, grouping=grouping, device=str(device))
        row = compare(lambda: reference(noisy), lambda ours=ours: ours(noisy), max(rounds // 3, 2), device)
        row['megapixels_a_second'] = 1.024**2 / row['ours_seconds']
        rows[f'photograph, {name}'] = row
    rows.update(_measure_memory())
    return rows


def _measure_memory() -> Iterator[tuple[str, dict[str, float]]]:
    """Peak resident memory of a fresh process, for photographs of 1 and 36 megapixels. Linux alone."""
    if not Path('/proc/self/status').is_file():
        return
    for side in (1000, 6000):
        peaks: dict[str, float] = {}
        for kind in ('reference', 'ours'):
            done = subprocess.run(
                [sys.executable, '-c', _MEMORY, kind, str(side)],
                text=True,
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT / "tests"}'},
            )
            loaded, peak = map(float, done.stdout.split()[-2:])
            peaks[f'{kind}_mib_above_loaded'] = peak - loaded
        yield f'memory, {side * side / 1e6:.0f} megapixels', peaks
