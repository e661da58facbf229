r"""Gamma encoding makes noisy pixels darker on average than the clean pixel: how much, and whether photographs show it.

A camera's sensor adds noise that is symmetric about the clean value r; sRGB then encodes each pixel by a concave curve
g. To the second order the mean of the encoded pixels is below g(r) by

.. math:: -g'' \sigma^2 / (2 g'^2) = 0.7 \sigma^2 / (y + 0.055)

with sigma after the encoding and y = g(r) in [0, 1] (IEC 61966-2-1, above its linear part). No filter can see this
error, since the mean of many noisy pixels has it too. The median has not: a monotone curve keeps it. So the distance of
the median from the mean shows how much of the encoding's skewness the noise has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HALF_CURVATURE = (2.4 - 1) / 2  # of the exponent
_OFFSET = 0.055
_LINEAR = 0.04045  # encoded values up to it are proportional to light
_MOST = 0.25  # of sigma: for a larger bias the expansion does not hold
_STANDARD_ERRORS = 2  # below which a measured skewness counts as none
_LEAST_PATCHES = 16


def encoding_bias(intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Grey levels by which the mean of noisy sRGB pixels is below the clean pixel; at most a quarter of sigma.

    Args:
        intensity: of the pixel without noise, in grey levels.
        sigma: standard deviation of the noise there, in grey levels, of the same shape.
    """
    encoded = intensity * np.float32(1 / 255)
    bias = sigma * sigma * (_HALF_CURVATURE / 255) / (np.maximum(encoded, _LINEAR) + _OFFSET)
    return np.where(encoded > _LINEAR, np.minimum(bias, _MOST * sigma), 0).astype(np.float32)


def skewness_terms(residual: np.ndarray, means: np.ndarray) -> NDArray[np.float64]:
    """Of flat patches, the two sums of which :func:`skewness_ratio` is the quotient.

    Args:
        residual: (n, 3, M), the noise in n patches, in grey levels.
        means: (n, 3), their intensities.

    Returns:
        (n, 2): the product of the measured and the expected distance of the median from the mean, and the square of the
        expected one, both summed over the channels in units of the noise's variance.
    """
    variance = residual.var(axis=2, dtype=np.float64)
    expected = encoding_bias(means, np.sqrt(variance))
    measured = np.median(residual, axis=2) - residual.mean(axis=2)
    weight = 1 / (variance + 1)  # a grey level: rounding moves the median of weak noise
    return np.stack([(measured * expected * weight).sum(axis=1), (expected**2 * weight).sum(axis=1)], axis=1)


def skewness_ratio(terms: np.ndarray, overlap: float) -> float:
    """Skewness of the noise as a fraction of that of symmetric noise after sRGB's encoding, 0 to 1.

    0 where it is not significant: noise that was added after the encoding, linear images, too few flat patches.

    Args:
        terms: (n, 2), of :func:`skewness_terms`.
        overlap: number of patches that share a pixel.
    """
    products, squares = terms.sum(axis=0) if len(terms) >= _LEAST_PATCHES else (0.0, 0.0)
    if squares <= 0:
        return 0.0
    ratio = products / squares
    error = np.sqrt(overlap * ((terms[:, 0] - ratio * terms[:, 1]) ** 2).sum()) / squares
    return float(min(ratio, 1)) if ratio > _STANDARD_ERRORS * error else 0.0
