"""The spectral denoiser against its first implementation (tests/reference_spectral.py): speed, difference, memory."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import skimage.data
import torch

from basicsr_sassid import NoiseModel, SpectralDenoiser, estimate_noise
from basicsr_sassid.inference.shrinkage import Shrinkage
from basicsr_sassid.noise.synthetic import simulate_camera

import reference_spectral
from timing import compare, has_peak_memory, run_fresh

_MEMORY = """
import sys, numpy as np
from basicsr_sassid import SpectralDenoiser, estimate_noise
import reference_spectral
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


def time_spectral(device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """The same algorithm on one tile, then whole photographs by the denoiser's defaults and without grouping."""
    rows: dict[str, dict[str, float]] = {}
    noisy, noise = simulated_photograph(672)
    planes = reference_spectral.opponent_planes(noisy / noise.sigma.astype(np.float32))
    powers = reference_spectral.block_powers(noise)
    shrinkage = Shrinkage([torch.from_numpy(power).to(device) for power in powers], grids=1, coarse_band=0.4)
    on_device = torch.from_numpy(planes).to(device)

    def first() -> np.ndarray:
        return reference_spectral.multiscale_planes(planes, powers)

    with torch.inference_mode():
        row = compare(first, lambda: shrinkage(on_device), rounds, device)
        difference = np.abs(shrinkage(on_device).cpu().numpy() - first()) * noise.sigma.mean()
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
    if not has_peak_memory():
        return
    for side in (1000, 6000):
        peaks: dict[str, float] = {}
        for kind in ('reference', 'ours'):
            loaded, peak = run_fresh(_MEMORY, kind, side)
            peaks[f'{kind}_mib_above_loaded'] = peak - loaded
        yield f'memory, {side * side / 1e6:.0f} megapixels', peaks
