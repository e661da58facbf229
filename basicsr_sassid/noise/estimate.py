"""Noise of photographs, estimated from the noisy photographs alone: its sigma by intensity and its correlation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from basicsr_sassid.noise.encoding import skewness_ratio, skewness_terms
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.noise.sigma_curve import BINS, fit_variance, intensity_bin, sigma_curve
from basicsr_sassid.ops.arrays import as_hwc, checked_image, is_grey, white_level
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import evenly_spaced

PATCH = 32  # side of the patches in which noise is measured, pixels
_FLATTEST = 0.2  # fraction of an image's patches, and of those of one intensity
_SMOOTHEST = 0.03  # fraction of an image's patches that are flat for certain
_MOST_CANDIDATES = 4000  # patches of an image that are considered, evenly spaced
_MOST_FLAT = 400  # flat patches that an image contributes
_MOST_CORRELATED = 6000  # patches whose correlation is computed, evenly spaced
_CLIPPED = (0.01, 0.1)  # tiers of the fraction of a patch's pixels at black or white: the lowest tier is used
_BLACK, _WHITE = 1.0, 254.0  # grey levels
_NEARBY = 8  # grey levels
_SATURATED = 0.5  # fraction of such pixels that leaves no noise to measure
# relative standard error of sigma, by single photographs of known noise (docs/noise.md): patches are never quite flat
_ERROR_OF_MANY, _ERROR_OF_ONE = 0.05, 0.5
_LAGS = 2 * MAX_LAG + 1


def estimate_noise(images: Iterable[np.ndarray]) -> NoiseModel:
    """Measure the noise of photographs that were taken and processed alike, without clean versions.

    In each image the 32x32 patches with the least variance count as flat (at most a fifth, clipped ones aside). The
    residual of a quadratic surface fitted to a patch is noise. The surface absorbs some of the noise, which lowers the
    autocorrelation by a constant; the constant is chosen so that the autocorrelation is zero at distances of 7 and 8
    pixels. Sigma at an intensity is that of the flattest fifth of the patches of this intensity.

    Args:
        images: (H, W), (H, W, 1) or (H, W, 3) RGB, uint8, uint16, or float in [0, 1], both sides 32 or more.

    Returns:
        The noise of all images together.

    Raises:
        UserError: no image; every patch is clipped; an image is too small, or none by :func:`checked_image`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> noisy = np.full((256, 256, 3), 0.5) + rng.normal(0, 0.04, (256, 256, 3))
        >>> noise = estimate_noise([noisy])
        >>> noise.blind_size()
        1
    """
    return pool_patches(find_flat_patches(checked_image(image)) for image in images)


@dataclasses.dataclass(frozen=True)
class FlatPatches:
    """The flat patches of one image.

    Attributes:
        residual: (n, 32, 32, 3), the flattest fifth without their surfaces, in grey levels.
        means, variances: (m, 3), of the flattest fifth of each intensity, in grey levels; NaN where it is saturated.
        skewness_terms: (k, 2), of the flattest fifth without clipped pixels, see :func:`skewness_terms`.
        overlap: number of patches that share a pixel.
    """

    residual: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    skewness_terms: np.ndarray
    overlap: float

    @property
    def is_grey(self) -> bool:
        """Whether the image is grey."""
        return is_grey(self.residual)


def find_flat_patches(image: np.ndarray) -> FlatPatches:
    """Find the patches whose variance is noise. Raises UserError as :func:`estimate_noise` does."""
    pixels = _as_grey_levels(image)
    patches = _evenly_spaced_patches(pixels)
    num_candidates = max(int(_FLATTEST * len(patches)), 1)
    clipped = _clipped(patches, *saturation_levels(pixels))
    if not _usable(clipped).any():  # a blank image, not a saturated area
        clipped = _clipped(patches, _BLACK, _WHITE)
    usable = _usable(clipped)
    patches, clipped = patches[usable], clipped[usable]
    if len(patches) == 0:
        none = np.empty((0, 3))
        return FlatPatches(np.empty((0, PATCH, PATCH, 3), np.float32), none, none, np.empty((0, 2)), 1.0)
    basis = surface_basis()
    residual = _residual(patches, basis)
    if is_grey(pixels):  # a product may round equal rows apart (OpenBLAS's kernel for Prescott does)
        residual[:] = residual[:, :1]
    roughness = _roughness(patches, basis)
    flattest = _flattest(roughness, clipped, num_candidates)
    means = patches.mean(axis=2)
    variances = np.where(clipped < _SATURATED, residual.var(axis=2), np.nan)
    unclipped = flattest[clipped[flattest].mean(axis=1) <= _CLIPPED[0]]  # clipping skews too, the other way
    by_intensity = _flattest_by_intensity(roughness, means.mean(axis=1), flattest)
    return FlatPatches(
        residual[flattest].transpose(0, 2, 1).reshape(-1, PATCH, PATCH, 3),
        means[by_intensity],
        variances[by_intensity],
        skewness_terms(residual[unclipped], means[unclipped]),
        max(PATCH / _patch_step(pixels), 1.0) ** 2,
    )


def saturation_levels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) -> (3, 1), (3, 1): the level of each channel at and below which it is black, and that of white.

    Cameras map a full sensor to 245 as well as to 255, and converting to grey mixes such levels. Saturation shows as a
    pile-up at the end of an image's own range: noise spreads over several levels, and clipped noise is on one.
    """
    black, white = np.full((3, 1), _BLACK), np.full((3, 1), _WHITE)
    for channel in range(3):
        counts = np.bincount(pixels[..., channel].round().clip(0, 255).astype(int).ravel(), minlength=256)
        white[channel] = min(white[channel], _pile_up(counts) - 0.5)
        black[channel] = max(black[channel], 255 - _pile_up(counts[::-1]) + 0.5)
    return black, white


def _pile_up(counts: np.ndarray) -> float:
    """The level at the bright end of a histogram on which noise is clipped; infinity if there is none.

    It has more than half of all pixels that are less than 8 levels darker, or brighter, and most others are darker.
    """
    brighter = counts[::-1].cumsum()[::-1]  # or equal
    nearby = brighter[np.maximum(np.arange(256) - _NEARBY, 0)]
    at_end = brighter - counts < counts.sum() - brighter
    # with fewer than half a patch's pixels it saturates no patch
    levels = np.flatnonzero((counts > nearby / 2) & at_end & (counts >= PATCH**2 / 2))
    return float(levels[-1]) if len(levels) else math.inf


def _clipped(patches: np.ndarray, black: Any, white: Any) -> np.ndarray:
    """(n, 3): fraction of each patch's pixels at black or white."""
    return ((patches <= black) | (patches >= white)).mean(axis=2)


def _usable(clipped: np.ndarray) -> np.ndarray:
    return np.median(clipped, axis=1) < _SATURATED


def _patch_step(pixels: np.ndarray) -> int:
    return max(PATCH // 2, math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / _MOST_CANDIDATES)))


def _evenly_spaced_patches(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (n, 3, 1024): overlapping patches, at most about 4000."""
    step = _patch_step(pixels)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(0, 1))[::step, ::step]
    return windows.reshape(-1, 3, PATCH * PATCH)


def _residual(patches: np.ndarray, basis: np.ndarray) -> np.ndarray:
    single = basis.astype(np.float32)
    return patches - patches @ single @ single.T


def _roughness(patches: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """(n,): residual variance of the channels' mean, in which detail is strongest.

    In double precision: many patches are nearly as flat as the next one, and the choice among them must not depend on
    how a processor rounds a float32 product.
    """
    mean = patches.mean(axis=1, dtype=np.float64)
    return ((mean - mean @ basis @ basis.T) ** 2).mean(axis=1)


def _flattest(roughness: np.ndarray, clipped: np.ndarray, num_candidates: int) -> np.ndarray:
    """Indices of the flat patches of an image, at most 400."""
    # clipping cuts the noise: such patches are for dark photographs, which have no others
    tier = np.searchsorted(_CLIPPED, clipped.mean(axis=1), 'right')
    # twice as many, so that there is a choice: the few unclipped patches of a dark image are its detail
    highest = np.sort(tier)[min(2 * num_candidates, len(tier)) - 1]
    least_clipped = np.flatnonzero(tier <= highest)
    least_clipped = least_clipped[np.argsort(roughness[least_clipped], kind='stable')][:num_candidates]
    certain = roughness[least_clipped[int(_SMOOTHEST / _FLATTEST * len(least_clipped))]]
    smooth = least_clipped[roughness[least_clipped] <= 1.5 * certain]  # as pure noise is alike, and texture is not
    return evenly_spaced(smooth, _MOST_FLAT)


def _flattest_by_intensity(roughness: np.ndarray, intensity: np.ndarray, flattest: np.ndarray) -> np.ndarray:
    """Indices of the flattest fifth of each intensity that has five patches; ``flattest`` if none has."""
    bins = intensity_bin(intensity)
    groups = [np.flatnonzero(bins == number) for number in range(BINS)]
    subsets = [
        group[np.argsort(roughness[group])[: math.ceil(_FLATTEST * len(group))]] for group in groups if len(group) >= 5
    ]
    return np.concatenate(subsets or [flattest])


def pool_patches(patches: Iterable[FlatPatches]) -> NoiseModel:
    """The noise of all images together. Raises UserError if there is no patch."""
    images = list(patches)
    residual = np.concatenate([image.residual for image in images]) if images else np.empty(0)
    if len(residual) == 0:
        raise UserError(
            'noise: no patch of 32x32 pixels that is not black or white; there is nothing to measure. '
            'Give other photographs.'
        )
    sigma = np.sqrt(residual.var(axis=(1, 2)).mean(axis=0))
    curves = {
        name: sigma_curve(
            [image.means[:, channel] for image in images],
            [image.variances[:, channel] for image in images],
            float(sigma[channel]),
        )
        for channel, name in enumerate('RGB')
    }
    variance_fit = {name: fit_variance(points) for name, points in curves.items()}
    correlation = _correlations(evenly_spaced(residual, _MOST_CORRELATED))[0]
    colour = [image.residual for image in images if not image.is_grey]
    # grey photographs tell nothing of the correlation between channels
    cross_correlation = (
        _correlations(evenly_spaced(np.concatenate(colour), _MOST_CORRELATED))[1]
        if colour
        else np.tile(correlation, (3, 3, 1, 1))
    )
    num_independent = max(sum(len(image.residual) / image.overlap for image in images), 1.0)
    error = sigma * math.hypot(_ERROR_OF_MANY, _ERROR_OF_ONE / math.sqrt(num_independent))
    skewness = skewness_ratio(
        np.concatenate([image.skewness_terms for image in images]), max(image.overlap for image in images)
    )
    return NoiseModel(sigma, correlation, cross_correlation, curves, variance_fit, len(residual), error, skewness)


def _as_grey_levels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 in [0, 255]; grey is repeated. Raises UserError."""
    pixels = as_hwc(np.asarray(image))
    if min(pixels.shape[:2]) < PATCH:
        raise UserError(f'noise: expected images of {PATCH} pixels a side or more, got {np.shape(image)}')
    white = white_level(pixels.dtype)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels.astype(np.float32) * (255.0 / white)


def surface_basis() -> np.ndarray:
    """(1024, 6), float64, orthonormal: the surfaces 1, x, y, xx, xy, yy on a patch."""
    y, x = np.mgrid[-1 : 1 : PATCH * 1j, -1 : 1 : PATCH * 1j].reshape(2, -1)
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))[0]


def _correlations(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32, 3) -> (17, 17) of the channels pooled, (3, 3, 17, 17) of each pair.

    Medians over the patches, each scaled to variance 1: a few patches with texture do not change them.
    """
    unit = (residual / np.maximum(residual.std(axis=(1, 2), keepdims=True), 1e-6)).transpose(0, 3, 1, 2)
    overlap = PATCH - np.abs(np.arange(-MAX_LAG, MAX_LAG + 1))
    products = np.empty((len(unit), 3, 3, _LAGS, _LAGS), np.float32)
    for start in range(0, len(unit), 256):
        spectra = np.fft.rfft2(unit[start : start + 256], (2 * PATCH, 2 * PATCH))  # padded: nothing wraps around
        for c in range(3):
            for d in range(c, 3):
                all_lags = np.fft.irfft2(spectra[:, c].conj() * spectra[:, d])
                near = np.roll(all_lags, (MAX_LAG, MAX_LAG), axis=(1, 2))[:, :_LAGS, :_LAGS]
                products[start : start + 256, c, d] = near / np.outer(overlap, overlap)
                products[start : start + 256, d, c] = products[start : start + 256, c, d, ::-1, ::-1]
    autocorrelations = products[:, range(3), range(3)].reshape(-1, _LAGS, _LAGS)
    cross = np.median(products, axis=0)
    cross = (cross + cross.transpose(1, 0, 2, 3)[..., ::-1, ::-1]) / 2  # the median of an even number may break it
    floors = cross[..., _far()].mean(axis=-1)[..., None, None]
    raised = cross - floors
    scale = np.sqrt(np.maximum(raised[range(3), range(3), MAX_LAG, MAX_LAG], 1e-12))
    return _from_floor(np.median(autocorrelations, axis=0)), raised / (scale[:, None] * scale)[..., None, None]


def _far() -> np.ndarray:
    rows, columns = np.abs(np.indices((_LAGS, _LAGS)) - MAX_LAG)
    return np.maximum(rows, columns) >= MAX_LAG - 1


def _from_floor(correlation: np.ndarray) -> np.ndarray:
    floor = correlation[_far()].mean()
    return (correlation - floor) / max(correlation[MAX_LAG, MAX_LAG] - floor, 1e-12)
