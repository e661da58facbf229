"""The first implementation of the spectral denoiser, on SciPy's DCT: the reference of its speed and of its results."""

from __future__ import annotations

import numpy as np
from scipy import fft

from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, noise_gain
from basicsr_sassid.ops.arrays import as_hwc, checked_image, is_grey, white_level
from basicsr_sassid.ops.tiling import process_tiles
from basicsr_sassid.utils.sequences import Progress

BLOCK = 16  # pixels a side of a local spectrum
_STRIDE = 4
_SCALES = 3
_THRESHOLD = 3.2  # standard deviations of a coefficient's noise
_COARSE_BAND = 0.4  # fraction of a coarser scale's frequencies that replace the finer scale's
TILE, _OVERLAP = 512, 64  # pixels
_GRID = 64  # of the power spectrum
# luminance and two differences of colour, orthonormal: a photograph's channels differ little, so most is in the first
OPPONENT = np.linalg.qr(np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], float).T)[0].T.astype(np.float32)


class SpectralDenoiser:
    """As SpectralDenoiser was: sigma by the model's curve and the image's gain, one grid of blocks, no groups."""

    def __init__(self, noise: NoiseModel, adapt: bool = True, strength: float = 1.0, tile: int = TILE) -> None:
        self.noise, self.adapt, self.strength, self.tile = noise, adapt, strength, tile
        self.powers = {grey: block_powers(noise.as_grey() if grey else noise) for grey in (False, True)}

    def __call__(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        pixels = checked_image(image)
        return self.denoise_any_range(pixels, progress).reshape(image.shape)

    def denoise_any_range(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        pixels = as_hwc(image)
        white = white_level(pixels.dtype)
        gain = self.strength * (noise_gain(image, self.noise) if self.adapt else np.ones(3, np.float32))
        powers = self.powers[is_grey(pixels)]

        def denoise_tile(tile: np.ndarray, box: object) -> np.ndarray:
            rgb = np.broadcast_to(tile, (*tile.shape[:2], 3)).astype(np.float32) * (255.0 / white)
            denoised = (self._denoise(rgb, gain, powers) * (white / 255.0)).clip(0, white)
            denoised = denoised.mean(axis=2, keepdims=True) if tile.shape[2] == 1 else denoised
            return denoised.round() if white > 1 else denoised

        return process_tiles(pixels, denoise_tile, self.tile, _OVERLAP, progress=progress).reshape(image.shape)

    def _denoise(self, rgb: np.ndarray, gain: np.ndarray, powers: list[np.ndarray]) -> np.ndarray:
        """(H, W, 3), grey levels: scale the noise to variance 1 everywhere, denoise, scale back."""
        height, width = rgb.shape[:2]
        unit = 2 ** (_SCALES - 1) * _STRIDE
        least = 2 ** (_SCALES - 1) * BLOCK  # a block at the coarsest scale
        padding = [(BLOCK, max(BLOCK + -side % unit, least - BLOCK - side)) for side in (height, width)] + [(0, 0)]
        padded = np.pad(rgb, padding, 'reflect' if min(height, width) > least else 'symmetric')
        sigma = gain * self.noise.sigma_at(local_intensity(padded))
        sigma = np.maximum(sigma, 1e-3)
        clean = multiscale_planes(opponent_planes(padded / sigma), powers).transpose(1, 2, 0)
        return (clean @ OPPONENT * sigma)[BLOCK : BLOCK + height, BLOCK : BLOCK + width]


def opponent_planes(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (3, H, W), contiguous: luminance and colour differences."""
    return np.ascontiguousarray(np.tensordot(rgb, OPPONENT, (2, 1)).transpose(2, 0, 1))


def block_powers(noise: NoiseModel) -> list[np.ndarray]:
    """For each scale (3, 16, 16): the noise's variance in each DCT coefficient of the three opponent channels."""
    rows = np.arange(BLOCK)
    basis = np.sqrt(2 / BLOCK) * np.cos(np.pi * (rows + 0.5) * rows[:, None] / BLOCK)
    basis[0] = np.sqrt(1 / BLOCK)
    lags = np.stack([np.correlate(row, row, 'full') for row in basis])  # (16, 31): of each basis function with itself
    opponent = np.einsum('kc,kd,cdyx->kyx', OPPONENT, OPPONENT, noise.cross_correlation)
    on_grid = np.zeros((3, _GRID, _GRID))
    on_grid[:, : 2 * MAX_LAG + 1, : 2 * MAX_LAG + 1] = opponent
    spectrum = np.fft.fft2(np.roll(on_grid, (-MAX_LAG, -MAX_LAG), axis=(1, 2))).real.clip(0)
    powers: list[np.ndarray] = []
    for _ in range(_SCALES):
        covariance = np.fft.fftshift(np.fft.ifft2(spectrum).real, axes=(1, 2))
        middle = covariance.shape[1] // 2
        if middle < BLOCK:  # a coarse scale's noise is all but white: zero further away
            covariance = np.pad(covariance, ((0, 0), *[(BLOCK - middle, BLOCK - middle)] * 2))
            middle = BLOCK
        near = covariance[:, middle - BLOCK + 1 : middle + BLOCK, middle - BLOCK + 1 : middle + BLOCK]
        powers.append(np.maximum(lags @ near @ lags.T, 1e-4).astype(np.float32))
        quarter = spectrum.shape[1] // 4  # halving the sides keeps the lower half of the frequencies
        low = np.fft.fftshift(spectrum, axes=(1, 2))[:, quarter:-quarter, quarter:-quarter]
        spectrum = np.fft.ifftshift(low, axes=(1, 2)) / 4  # and averages four pixels
    return powers


def multiscale_planes(planes: np.ndarray, powers: list[np.ndarray]) -> np.ndarray:
    """(C, H, W), sides multiples of 16, noise of variance 1."""
    return np.stack([_multiscale(plane, [power[channel] for power in powers]) for channel, plane in enumerate(planes)])


def _multiscale(plane: np.ndarray, powers: list[np.ndarray]) -> np.ndarray:
    """(H, W), sides multiples of 4 * 2^(scales - 1), denoised at this scale and the coarser ones."""
    clean = _threshold_then_wiener(plane, powers[0])
    if len(powers) == 1:
        return clean
    height, width = (side // 2 for side in plane.shape)
    spectrum = _dct(clean)
    coarse = _inverse_dct(_dct(plane)[:height, :width]) / 2
    coarse_spectrum = _dct(_multiscale(coarse, powers[1:])) * 2
    low = tuple(slice(0, int(_COARSE_BAND * side)) for side in (height, width))
    spectrum[low] = coarse_spectrum[low]
    return _inverse_dct(spectrum)


def _threshold_then_wiener(plane: np.ndarray, power: np.ndarray) -> np.ndarray:
    noisy = _spectra(plane)
    significant = np.abs(noisy) > _THRESHOLD * np.sqrt(power)
    significant[..., 0, 0] = True
    first = _overlap_add(noisy * significant, 1 / (significant * power).sum(axis=(-1, -2)), plane.shape)
    signal = _spectra(first) ** 2
    gain = signal / (signal + power)
    return _overlap_add(noisy * gain, 1 / (gain**2 * power).sum(axis=(-1, -2)).clip(1e-6), plane.shape)


def _spectra(plane: np.ndarray) -> np.ndarray:
    """(rows, columns, 16, 16): DCT of every block."""
    blocks = np.lib.stride_tricks.sliding_window_view(plane, (BLOCK, BLOCK))[::_STRIDE, ::_STRIDE]
    return _dct(blocks)


def _overlap_add(spectra: np.ndarray, weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Transform blocks back and average them where they overlap, weighted: (rows, columns, 16, 16) -> ``shape``."""
    blocks = _inverse_dct(spectra) * weights[..., None, None]
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    phases = BLOCK // _STRIDE
    for top in range(phases):
        for left in range(phases):  # blocks of one phase lie side by side
            subset = blocks[top::phases, left::phases]
            rows, columns = subset.shape[0] * BLOCK, subset.shape[1] * BLOCK
            box = (slice(top * _STRIDE, top * _STRIDE + rows), slice(left * _STRIDE, left * _STRIDE + columns))
            total[box] += subset.transpose(0, 2, 1, 3).reshape(rows, columns)
            weight[box] += weights[top::phases, left::phases].repeat(BLOCK, 0).repeat(BLOCK, 1)
    return total / weight


def _dct(x: np.ndarray) -> np.ndarray:
    """Orthonormal DCT over the last two axes."""
    return np.asarray(fft.dctn(x, axes=(-2, -1), norm='ortho'))


def _inverse_dct(x: np.ndarray) -> np.ndarray:
    return np.asarray(fft.idctn(x, axes=(-2, -1), norm='ortho'))
