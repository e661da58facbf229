"""Strength of the noise in one photograph: its gain relative to a noise model, and sigma at every pixel."""

from __future__ import annotations

import math

import cv2
import numpy as np

from basicsr_sassid.noise.estimate import PATCH, find_flat_patches
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_curve import shrunk_median
from basicsr_sassid.ops.arrays import checked_image, white_level

_LEAST_PATCHES = 3  # of a gain
_GAIN_SPREAD = 0.3  # of the logarithm of gains between photographs; weighed against the spread inside one
_INTENSITY_SIGMA = 4.0  # pixels, of the blur that gives the intensity at which a pixel's noise is looked up


def noise_gain(image: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """(3,): sigma of an image's noise in R, G, B as a multiple of ``noise``'s; 1 where it cannot be measured.

    The median over its flat patches, shrunk towards 1 the more they differ: noise is alike in all, texture is not.
    """
    if min(image.shape[:2]) < PATCH:
        return np.ones(3, np.float32)
    patches = find_flat_patches(image)
    ratio = patches.variances / np.maximum(noise.sigma_at(patches.means) ** 2, 1e-6)
    return np.array(
        [_shrunk_gain(np.log(np.maximum(column[np.isfinite(column)], 1e-6)) / 2) for column in ratio.T], np.float32
    ).clip(0.1, 10)


def _shrunk_gain(log_gains: np.ndarray) -> float:
    return math.exp(shrunk_median(log_gains, _GAIN_SPREAD)) if len(log_gains) >= _LEAST_PATCHES else 1.0


def sigma_map(image: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """The noise's standard deviation at every pixel, (H, W, 3) in grey levels, of an image in any form that
    :func:`checked_image` takes. Raises UserError for another."""
    pixels = checked_image(image)
    grey_levels = pixels.astype(np.float32) * np.float32(255 / white_level(pixels.dtype))
    rgb = np.ascontiguousarray(np.broadcast_to(grey_levels, (*pixels.shape[:2], 3)))
    return noise_gain(pixels, noise) * noise.sigma_at(local_intensity(rgb))


def sigma_of_channels(noise: NoiseModel, intensity: np.ndarray, gain: np.ndarray | float = 1.0) -> np.ndarray:
    """(..., C) in grey levels to the same: sigma by the model's curves, times a ``gain`` of R, G, B. C is 3, or 1: the
    mean over the curves of R, G and B."""
    by_channel = gain * noise.sigma_at(np.broadcast_to(intensity, (*intensity.shape[:-1], 3)))
    return by_channel if intensity.shape[-1] == 3 else by_channel.mean(axis=-1, keepdims=True)


def local_intensity(grey_levels: np.ndarray) -> np.ndarray:
    """(H, W, 3), blurred so much that the noise vanishes: the intensity at which sigma is looked up."""
    return cv2.GaussianBlur(grey_levels, (0, 0), _INTENSITY_SIGMA)
