"""Sigma of the noise by intensity, from the variances of flat patches of many images."""

from __future__ import annotations

import numpy as np

BINS = 16  # of intensity
_LEAST_PATCHES = 10  # of a point of the curve
_SPREAD = 0.2  # of log sigma between intensities; weighed against the spread between the patches of a sparse one


def intensity_bin(intensity: np.ndarray) -> np.ndarray:
    """Index of the bin, 0 to 15, of intensities in grey levels."""
    return np.clip((intensity * (BINS / 256)).astype(int), 0, BINS - 1)


def shrunk_median(log_sigmas: np.ndarray, prior_spread: float) -> float:
    """Median of values of which 0 with ``prior_spread`` is expected, shrunk towards 0 the more they differ.

    Noise is alike in all patches, texture is not.
    """
    middle = np.median(log_sigmas)
    spread = 1.48 * np.median(np.abs(log_sigmas - middle))  # a standard deviation, if they are normal
    return float(middle * prior_spread**2 / (prior_spread**2 + spread**2))


def sigma_curve(means: list[np.ndarray], variances: list[np.ndarray], sigma: float) -> np.ndarray:
    """(n, 2): intensity and sigma of each of 16 bins with ten patches or more.

    Each image has its own gain (its ISO) on a curve that all share: gains and curve are fitted in turn. Neighbouring
    bins with fewer patches are measured together. The few patches of a rare intensity are often its detail, or clipped:
    the more they differ, the more the overall sigma holds.

    Args:
        means, variances: (m,) of the patches of each image, in grey levels; the variance is NaN where it is saturated.
        sigma: of the flat patches, in grey levels.
    """
    image = np.repeat(np.arange(len(means)), [len(of_image) for of_image in means])
    mean, variance = np.concatenate(means), np.concatenate(variances)
    known = np.isfinite(variance) & (variance > 0)
    image, mean, log = image[known], mean[known], np.log(np.maximum(variance[known], 1e-3))
    bins = intensity_bin(mean)
    curve, gain = np.zeros(BINS), np.zeros(len(means))  # logarithms of variances
    for _ in range(10):
        gain = _medians(log - curve[bins], image, len(means))
        gain -= np.median(gain[np.unique(image)]) if len(image) else 0.0
        curve = _medians(log - gain[image], bins, BINS)
    rows: list[tuple[float, float]] = []
    for patches, is_sparse in _groups(bins):
        log_variance = log[patches] - gain[image[patches]]
        if is_sparse:
            overall = np.log(max(sigma, 0.1))
            rows.append((mean[patches].mean(), np.exp(overall + shrunk_median(log_variance / 2 - overall, _SPREAD))))
        else:
            rows.append((mean[patches].mean(), np.exp(np.median(log_variance) / 2)))
    return np.array(rows).reshape(-1, 2)


def _groups(bins: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """Indices of the patches of each bin that has ten, and of neighbours that have ten together: those are sparse."""
    groups: list[tuple[np.ndarray, bool]] = []
    sparse = np.empty(0, int)
    for number in range(BINS):
        patches = np.flatnonzero(bins == number)
        if len(patches) >= _LEAST_PATCHES:
            groups.append((patches, False))
            sparse = sparse[:0]
            continue
        sparse = np.concatenate([sparse, patches])
        if len(sparse) >= _LEAST_PATCHES:
            groups.append((sparse, True))
            sparse = sparse[:0]
    return groups


def _medians(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """(count,): the median of the values of each label; 0 for a label that does not occur."""
    return np.array([np.median(values[labels == label]) if (labels == label).any() else 0.0 for label in range(count)])


def fit_variance(points: np.ndarray) -> tuple[float, float]:
    """(slope, offset) of variance = slope * intensity + offset, of points (intensity, sigma)."""
    if len(points) < 2:
        return 0.0, float((points[:, 1] ** 2).mean()) if len(points) else 0.0
    slope, offset = np.polyfit(points[:, 0], points[:, 1] ** 2, 1)
    return float(slope), float(offset)
