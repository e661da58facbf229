"""Noise in DCT coefficients of blocks, as it follows from the correlation of the noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from basicsr_sassid.noise.model import MAX_LAG, NoiseModel

# luminance and two differences of colour, orthonormal: a photograph's channels differ little, so most is in the first
OPPONENT = np.linalg.qr(np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], float).T)[0].T.astype(np.float32)
_GRID = 64  # of the power spectrum
_FARTHEST = 12  # pixels: noise is not correlated further away, at any scale


def rgb_correlation(noise: NoiseModel) -> np.ndarray:
    """(3, 17, 17): autocorrelation of red, green and blue."""
    return noise.cross_correlation[range(3), range(3)]


def opponent_correlation(noise: NoiseModel) -> np.ndarray:
    """(3, 17, 17): autocorrelation of the opponent channels of noise whose channels have variance 1."""
    return np.einsum('kc,kd,cdyx->kyx', OPPONENT, OPPONENT, noise.cross_correlation)


def grey_correlation(noise: NoiseModel) -> np.ndarray:
    """(1, 17, 17): autocorrelation of one channel."""
    return noise.correlation[None]


def correlation_spectrum(correlation: np.ndarray, height: int, width: int) -> NDArray[np.complex128]:
    """(..., 17, 17) -> (..., height, width), complex: its Fourier transform, on a grid of 17 a side or more."""
    on_grid = np.zeros((*correlation.shape[:-2], height, width))
    on_grid[..., : 2 * MAX_LAG + 1, : 2 * MAX_LAG + 1] = correlation
    return np.fft.fft2(np.roll(on_grid, (-MAX_LAG, -MAX_LAG), axis=(-2, -1)))


def scale_covariances(correlation: np.ndarray, scales: int) -> list[np.ndarray]:
    """(C, 17, 17) -> for each scale (C, 25, 25): covariance at distances of up to 12 pixels of that scale.

    A scale has half the pixels a side of the scale before it; the noise's power is that of the lower frequencies.
    """
    spectrum = correlation_spectrum(correlation, _GRID, _GRID).real.clip(0)
    covariances: list[np.ndarray] = []
    for _ in range(scales):
        covariance = np.fft.fftshift(np.fft.ifft2(spectrum).real, axes=(1, 2))
        middle = covariance.shape[1] // 2
        reach = min(middle - 1, _FARTHEST)
        near = covariance[:, middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
        covariances.append(np.pad(near, ((0, 0), *[(_FARTHEST - reach,) * 2] * 2)))
        quarter = spectrum.shape[1] // 4  # halving the sides keeps the lower half of the frequencies
        low = np.fft.fftshift(spectrum, axes=(1, 2))[:, quarter:-quarter, quarter:-quarter]
        spectrum = np.fft.ifftshift(low, axes=(1, 2)) / 4  # and averages four pixels
    return covariances


def block_power(covariance: np.ndarray, block: int) -> np.ndarray:
    """(C, block, block): the noise's variance in each DCT coefficient of a block."""
    return np.maximum(block_covariances(covariance, block, [(0, 0)])[0], 1e-4).astype(np.float32)


def block_covariances(covariance: np.ndarray, block: int, distances: list[tuple[int, int]]) -> np.ndarray:
    """(D, C, block, block): covariance of each DCT coefficient in two blocks, ``distances`` (rows, columns) apart."""
    basis = np.asarray(fft.dct(np.eye(block), axis=0, norm='ortho'))
    lags = np.stack([np.correlate(row, row, 'full') for row in basis])  # of each basis function with itself
    centre = block + max(abs(lag) for distance in distances for lag in distance)
    wide = np.pad(covariance, ((0, 0), *[(max(centre - _FARTHEST, 0),) * 2] * 2))
    centre = max(centre, _FARTHEST)
    result: list[np.ndarray] = []
    for down, across in distances:
        rows, columns = (slice(centre + lag - block + 1, centre + lag + block) for lag in (down, across))
        result.append(lags @ wide[:, rows, columns] @ lags.T)
    return np.stack(result)
