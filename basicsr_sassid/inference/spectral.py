"""Spectral denoiser, classical: shrinkage of block DCT coefficients by the measured power spectrum of the noise."""

from __future__ import annotations

import numpy as np
import torch

from basicsr_sassid.inference.grouping import covariance_table
from basicsr_sassid.inference.shrinkage import Shrinkage
from basicsr_sassid.noise.estimate import PATCH
from basicsr_sassid.noise.local_sigma import LocalSigma, measure_local_sigma
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, sigma_of_channels
from basicsr_sassid.noise.spectrum import (
    OPPONENT,
    block_power,
    grey_correlation,
    opponent_correlation,
    scale_covariances,
)
from basicsr_sassid.ops.arrays import as_hwc, checked_image, is_grey, white_level
from basicsr_sassid.ops.block_dct import BLOCK, STRIDE
from basicsr_sassid.ops.tiling import Box, process_tiles
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.sequences import Progress

_SCALES = 3
TILE, OVERLAP = 512, 64  # pixels


class SpectralDenoiser:
    """Denoise images whose noise was measured. A classical method, which needs no training.

    Every pixel is divided by the standard deviation of the noise there. Overlapping 16x16 blocks of luminance and
    colour differences are transformed by a DCT, whose coefficients are compared with the noise's power in them, which
    follows from its correlation: first by a threshold, then by a Wiener filter whose signal power is that of the first
    result, and which filters groups of similar blocks together. There are three scales; the low frequencies of each are
    taken from the coarser one. Where the noise is skewed as gamma encoding skews it, the result is brightened by what
    the encoding has darkened it (:mod:`basicsr_sassid.noise.encoding`).

    Args:
        noise: of :func:`estimate_noise`, from this image or from others like it.
        adapt: measure the noise's standard deviation all over each image, keeping the correlation of ``noise``.
        strength: factor on the noise's standard deviation.
        tile: side of the tiles in which an image is denoised, pixels.
        grouping: filter similar blocks together, as BM3D does; without it the denoiser is faster.
        device: ``'cpu'``, ``'cuda'``, ``'auto'`` ... where the images are denoised.

    Raises:
        UserError: there is no such device.

    Example:
        >>> from basicsr_sassid import estimate_noise
        >>> rng = np.random.default_rng(0)
        >>> noisy = np.full((96, 96, 3), 0.5) + rng.normal(0, 0.1, (96, 96, 3))
        >>> denoise = SpectralDenoiser(estimate_noise([noisy]))
        >>> bool((denoise(noisy) - 0.5).std() < 0.02)
        True
    """

    def __init__(
        self,
        noise: NoiseModel,
        adapt: bool = True,
        strength: float = 1.0,
        tile: int = TILE,
        grouping: bool = True,
        device: str = 'cpu',
    ) -> None:
        self.noise, self.adapt, self.strength, self.tile, self.grouping = noise, adapt, strength, tile, grouping
        self.device = choose_device(device)
        self.shrinkages = {  # by whether the image is grey
            False: self._make_shrinkage(opponent_correlation(noise)),
            True: self._make_shrinkage(grey_correlation(noise)),
        }

    def __call__(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Denoise one image.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in [0, 1].
            progress: called with the fraction done, 0 to 1.

        Returns:
            The image denoised: same shape, dtype and range.

        Raises:
            UserError: another kind of image, see :func:`checked_image`.
        """
        pixels = checked_image(image)
        return self.denoise_any_range(pixels, progress).reshape(image.shape)

    def denoise_any_range(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Denoise an image whose floats may leave [0, 1], as the probes of :func:`monte_carlo_sure` do."""
        pixels = as_hwc(image)
        white = white_level(pixels.dtype)
        grey = is_grey(pixels)
        planes = pixels[..., :1] if grey else pixels
        sigma = measure_local_sigma(planes, self.noise) if self.adapt and min(image.shape[:2]) >= PATCH else None
        shrinkage = self.shrinkages[grey]
        if sigma is not None:
            shrinkage = shrinkage.with_gain(torch.from_numpy(sigma.colour_gain).to(self.device))

        def denoise_tile(tile: np.ndarray, box: Box) -> np.ndarray:
            levels = tile.astype(np.float32) * np.float32(255.0 / white)
            denoised = (self._denoise(levels, box, sigma, shrinkage) * (white / 255.0)).clip(0, white)
            return denoised.round() if white > 1 else denoised

        denoised = process_tiles(planes, denoise_tile, self.tile, OVERLAP, progress=progress)
        return (np.repeat(denoised, 3, axis=2) if grey and pixels.shape[2] == 3 else denoised).reshape(image.shape)

    def _make_shrinkage(self, correlation: np.ndarray) -> Shrinkage:
        """The shrinkage of planes whose noise has this autocorrelation, (C, 17, 17)."""
        scales = scale_covariances(correlation, _SCALES)
        powers = [torch.from_numpy(block_power(scale, BLOCK)).to(self.device) for scale in scales]
        tables = [covariance_table(scale).to(self.device) for scale in scales] if self.grouping else None
        return Shrinkage(powers, tables)

    @torch.inference_mode()
    def _denoise(
        self, levels: np.ndarray, box: Box, local_sigma: LocalSigma | None, shrinkage: Shrinkage
    ) -> np.ndarray:
        """(H, W, C), grey levels, at ``box`` of the image: scale the noise to variance 1, denoise, scale back."""
        height, width, channels = levels.shape
        unit = 2 ** (_SCALES - 1) * STRIDE
        least = 2 ** (_SCALES - 1) * BLOCK  # a block at the coarsest scale
        padding = [(BLOCK, max(BLOCK + -side % unit, least - BLOCK - side)) for side in (height, width)] + [(0, 0)]
        mode = 'reflect' if min(height, width) > least else 'symmetric'
        padded = np.pad(levels, padding, mode)
        if local_sigma is None:
            sigma = sigma_of_channels(self.noise, local_intensity(padded).reshape(padded.shape))
        else:
            sigma = np.pad(local_sigma.at(*box), padding, mode)
        bias_sigma, sigma = sigma, np.maximum(sigma * np.float32(self.strength), np.float32(1e-3))
        opponent = torch.from_numpy(OPPONENT if channels == 3 else np.ones((1, 1), np.float32)).to(self.device)
        scaled = torch.from_numpy(padded / sigma).to(self.device).permute(2, 0, 1)
        planes = torch.tensordot(opponent, scaled, dims=1).contiguous()
        clean = torch.tensordot(opponent.T, shrinkage(planes), dims=1)
        denoised = clean.permute(1, 2, 0).cpu().numpy() * sigma
        if self.noise.skewness:
            denoised += self.noise.encoding_bias(denoised, bias_sigma)
        return denoised[BLOCK : BLOCK + height, BLOCK : BLOCK + width]
