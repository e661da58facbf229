"""What each part of the spectral denoiser gains, and grey images against BM3D.

    python ablations/spectral.py                                     # the demo's simulated photographs
    python ablations/spectral.py --noisy sidd_val/noisy --reference sidd_val/clean       # 40 of the 160 blocks
    python ablations/spectral.py --noisy polyu/noisy --reference polyu/clean --every 2
    python ablations/spectral.py --grey                              # needs bm3d: pip install 'basicsr_sassid[bm3d]'

Photographs: the first implementation (tests/reference_spectral.py), then with one part after another; mean PSNR in dB,
and megapixels a second in this run. --grey: scikit-image's photographs in one channel with Poisson-Gaussian noise of
three strengths; BM3D is given the same measured level. The clean references serve the comparison alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.color
import skimage.data
import torch

from common import Pairs, add_photograph_arguments, demo, mean_psnr, photograph_folders  # isort: skip

from basicsr_sassid import NoiseModel, SpectralDenoiser, estimate_noise
from basicsr_sassid._compat import numpy_with_trapz
from basicsr_sassid.inference.shrinkage import Shrinkage
from basicsr_sassid.noise.sigma_map import sigma_map
from basicsr_sassid.ops.arrays import centre_crop

import reference_spectral  # isort: skip

Denoise = Callable[[np.ndarray], np.ndarray]
PHOTONS = 20.0, 100.0, 500.0  # of a white pixel
READ_NOISE = 2.0  # grey levels
SIDE = 256  # pixels of a grey image


class WithoutGain(Shrinkage):
    """Shrinkage that takes the noise of colour differences from the model."""

    def with_gain(self, gain: torch.Tensor) -> Shrinkage:
        """The same."""
        return self


class Variant(SpectralDenoiser):
    """The spectral denoiser without groups, with another shrinkage."""

    def __init__(self, noise: NoiseModel, kind: type[Shrinkage] = Shrinkage, **settings: float) -> None:
        super().__init__(noise, grouping=False)
        self.shrinkages = {grey: kind(usual.powers, **settings) for grey, usual in self.shrinkages.items()}


def variants(noise: NoiseModel) -> dict[str, Denoise]:
    """Name -> denoiser, each with one part more."""
    symmetric = dataclasses.replace(noise, skewness=0.0)
    return {
        'noisy': lambda image: image,
        'first implementation': reference_spectral.SpectralDenoiser(noise),
        '+ local sigma': Variant(symmetric, WithoutGain, grids=1, coarse_band=0.4),
        '+ sigma of colour differences': Variant(symmetric, grids=1, coarse_band=0.4),
        '+ narrower coarse band': Variant(symmetric, grids=1),
        '+ second grid': SpectralDenoiser(symmetric, grouping=False),
        '+ groups': SpectralDenoiser(symmetric),
        '+ brightness (the default)': SpectralDenoiser(noise),
        'the default without groups': SpectralDenoiser(noise, grouping=False),
    }


def print_variants(pairs: Pairs) -> None:
    """A row a variant."""
    noise = estimate_noise(noisy for noisy, _ in pairs)
    megapixels = sum(math.prod(noisy.shape[:2]) for noisy, _ in pairs) / 1e6
    print(f'{len(pairs)} photographs, sigma {noise.describe_sigma()}, skewness {noise.skewness:.2f}')
    print(f'{"":34}PSNR   megapixels/s')
    for name, denoise in variants(noise).items():
        started = time.perf_counter()
        psnr = mean_psnr(denoise, pairs)
        print(f'{name:32}{psnr:7.3f}{megapixels / (time.perf_counter() - started):10.2f}', flush=True)


def grey_pairs(photons: float) -> Pairs:
    """Five grey photographs, 256x256, with Poisson noise of this many photons, and Gaussian noise."""
    photographs = [skimage.data.camera(), skimage.data.coins(), skimage.data.moon()]
    photographs += [skimage.color.rgb2gray(f()) * 255 for f in (skimage.data.astronaut, skimage.data.coffee)]
    rng = np.random.default_rng(0)
    pairs: Pairs = []
    for photograph in photographs:
        clean = centre_crop(np.round(photograph).astype(np.uint8), SIDE)
        shot = rng.poisson(clean / 255 * photons) * (255 / photons)
        noisy = (shot + rng.normal(0, READ_NOISE, clean.shape)).round().clip(0, 255).astype(np.uint8)
        pairs.append((noisy[..., None], clean[..., None]))
    return pairs


def bm3d_denoiser(noise: NoiseModel) -> Denoise:
    """BM3D with the root mean square of the measured sigma of each image."""
    import bm3d  # an extra

    def denoise(image: np.ndarray) -> np.ndarray:
        sigma = sigma_map(image, noise)
        with numpy_with_trapz():
            result = bm3d.bm3d(image[..., 0] / 255.0, float(np.sqrt((sigma**2).mean())) / 255)
        return (result.clip(0, 1) * 255).round().astype(np.uint8)[..., None]

    return denoise


def print_grey() -> None:
    """A row a strength."""
    print(f'{"photons":>8}{"noisy":>8}{"BM3D":>8}{"first":>8}{"no groups":>11}{"default":>9}')
    for photons in PHOTONS:
        pairs = grey_pairs(photons)
        noise = estimate_noise(noisy for noisy, _ in pairs)
        methods: list[Denoise] = [
            lambda image: image,
            bm3d_denoiser(noise),
            reference_spectral.SpectralDenoiser(noise),
            SpectralDenoiser(noise, grouping=False),
            SpectralDenoiser(noise),
        ]
        print(f'{photons:8.0f}' + '  '.join(f'{mean_psnr(method, pairs):7.2f}' for method in methods), flush=True)


def main() -> None:
    """Parse the command line, denoise, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_photograph_arguments(parser)
    parser.add_argument('--every', type=int, default=1, help='use every n-th photograph')
    parser.add_argument('--grey', action='store_true', help='grey images with simulated noise, against BM3D')
    args = parser.parse_args()
    if args.grey:
        print_grey()
        return
    with tempfile.TemporaryDirectory() as folder:
        print_variants(demo.read_pairs(*photograph_folders(args, Path(folder)))[:: args.every])


if __name__ == '__main__':
    main()
