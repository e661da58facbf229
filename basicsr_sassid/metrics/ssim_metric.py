"""The two SSIMs of published tables that BasicSR lacks. For one image the three differ by up to 0.1.

BasicSR's ``calculate_ssim``: each channel by itself, Gaussian window of 11x11 pixels (sigma 1.5), the border of 5
pixels left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from basicsr.metrics.metric_util import reorder_image
from basicsr.utils.registry import METRIC_REGISTRY
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from basicsr_sassid.utils.errors import UserError

_WINDOW = 7  # scikit-image's
_SIGMA, _TRUNCATE = 1.5, 3.5  # MATLAB's radius of 5 pixels: int(3.5 * 1.5 + 0.5)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


@METRIC_REGISTRY.register()
def calculate_ssim_uniform(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, input_order: str = 'HWC', **kwargs: object
) -> float:
    """SSIM as scikit-image's default: each channel by itself, uniform window of 7x7 pixels, sample covariance.

    AP-BSN's tables use it, and most Python code.

    Args:
        img, img2: (H, W, C) or (H, W), in [0, 255], 7 pixels a side or more.
        crop_border: pixels left out on every side.
        input_order: ``HWC`` or ``CHW``.

    Raises:
        UserError: the shapes differ, or the images are smaller than the window.
    """
    img, img2 = _pair(img, img2, crop_border, input_order)
    if min(img.shape[:2]) < _WINDOW:
        raise UserError(f'calculate_ssim_uniform: expected {_WINDOW} pixels a side or more, got {img.shape}')
    similarity: Any = structural_similarity(img, img2, win_size=_WINDOW, data_range=255.0, channel_axis=2)
    return float(similarity)


@METRIC_REGISTRY.register()
def calculate_ssim_matlab(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, input_order: str = 'HWC', **kwargs: object
) -> float:
    """SSIM as MATLAB's ``ssim`` computes it for an RGB image: of a volume, smoothed along its third axis too.

    Gaussian window of 11x11x11 (sigma 1.5), borders repeated, mean over all voxels. The window averages the three
    channels, which reduces their noise: 0.93 where the other two give 0.88. The SIDD server of 2018 to 2023 and the
    tables of SASSID use it. Arguments and errors as for :func:`calculate_ssim_uniform`; any size.
    """
    x, y = _pair(img, img2, crop_border, input_order)

    def mean(volume: np.ndarray) -> np.ndarray:
        return gaussian_filter(volume, _SIGMA, mode='nearest', truncate=_TRUNCATE)

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    similarity = (
        (2 * mean_x * mean_y + _C1)
        * (2 * covariance + _C2)
        / ((mean_x**2 + mean_y**2 + _C1) * (variance_x + variance_y + _C2))
    )
    return float(similarity.mean())


def _pair(img: np.ndarray, img2: np.ndarray, crop_border: int, input_order: str) -> tuple[np.ndarray, np.ndarray]:
    if img.shape != img2.shape:
        raise UserError(f'ssim: expected two images of one shape, got {img.shape} and {img2.shape}')
    if input_order not in ('HWC', 'CHW'):
        raise UserError(f'ssim: input_order: expected HWC or CHW, got {input_order!r}')
    box = slice(crop_border, -crop_border or None)
    first, second = (reorder_image(image, input_order).astype(np.float64)[box, box] for image in (img, img2))
    return first, second
