"""How strong the noise of one photograph is: its gain against a noise model, and sigma at every pixel."""
from __future__ import annotations

import cv2
import numpy as np

from basicsr_sassid.noise.estimate import PATCH, find_flat_patches
from basicsr_sassid.noise.model import NoiseModel

_INTENSITY_SIGMA = 4.  # pixels, of the blur that gives the intensity at which a pixel's noise is looked up
_GAIN_SPREAD = 0.3  # of the logarithm of gains between photographs; weighed against the spread inside one


def noise_gain(image: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """(3,): how strong the noise of an image is in R, G, B, as a multiple of ``noise``'s; 1 where it can't be told.

    The median over its flat squares, drawn towards 1 the more they differ: noise is alike in all, texture is not.
    """
    if min(image.shape[:2]) < PATCH:
        return np.ones(3, np.float32)
    squares = find_flat_patches(image)
    ratio = squares.variances / np.maximum(noise.sigma_at(squares.means) ** 2, 1e-6)
    return np.array([_level(np.log(np.maximum(column[np.isfinite(column)], 1e-6)) / 2) for column in ratio.T],
                    np.float32).clip(0.1, 10)


def _level(logs: np.ndarray) -> float:
    if len(logs) < 3:
        return 1.
    middle = np.median(logs)
    spread = 1.48 * np.median(np.abs(logs - middle))  # a standard deviation, if they are normal
    return float(np.exp(middle * _GAIN_SPREAD ** 2 / (_GAIN_SPREAD ** 2 + spread ** 2)))


def sigma_map(image: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """The noise's standard deviation at every pixel of (H, W, 3) float32 in [0, 1], in grey levels."""
    return noise_gain(image, noise) * noise.sigma_at(local_intensity(image * np.float32(255)))


def local_intensity(grey_levels: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(grey_levels, (0, 0), _INTENSITY_SIGMA)
