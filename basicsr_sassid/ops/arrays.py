"""Image arrays: the input contract of every denoiser, value of white, crops."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from basicsr_sassid.utils.errors import UserError

# How far floats may lie outside of [0, 1]: a quarter of an 8-bit grey level, more than float16 rounds
RANGE_TOLERANCE = 1e-3


def checked_image(image: object) -> np.ndarray:
    """An image of the contract that every denoiser and :func:`estimate_noise` share, as (H, W, C).

    Args:
        image: NumPy array (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in [0, 1]. Floats may exceed the
            range by ``RANGE_TOLERANCE``, for rounding.

    Raises:
        UserError: no NumPy array; another dtype or shape; no pixels; values that are not finite or out of range.
    """
    if not isinstance(image, np.ndarray):
        raise UserError(f'image: expected a NumPy array, got {_described(image)}')
    pixels = as_hwc(np.asarray(cast('np.ndarray[Any, Any]', image)))
    if white_level(pixels.dtype) == 1:
        _check_range(float(pixels.min()), float(pixels.max()))
    return pixels


def _described(image: object) -> str:
    """The type of an image that is no array, and how to make it one."""
    kind = type(image)
    library = kind.__module__.partition('.')[0]
    if library == 'PIL':
        return 'a PIL image: give np.asarray(image)'
    if library == 'torch':
        return 'a torch tensor: give (H, W, C), as tensor.permute(1, 2, 0).cpu().numpy() makes of (C, H, W)'
    if isinstance(image, (list, tuple)):
        return f'a {kind.__name__}: give np.asarray(image), one image at a time'
    return f'a value of type {kind.__name__}'


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError('image: values that are not finite (NaN or infinity); replace them, as np.nan_to_num does')
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        if high > 256:
            advice = 'divide by the value of white'
        elif high > 2:
            advice = 'divide by 255'
        else:
            advice = 'clip an overshoot with image.clip(0, 1), or scale the image'
        raise UserError(f'image: expected floats in [0, 1], found {low:g} to {high:g}; {advice}')


def as_hwc(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1) or (H, W, 3) as (H, W, C). Raises UserError for another shape."""
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(f'expected an image of shape (H, W), (H, W, 1) or (H, W, 3), got {image.shape}')
    return pixels


def white_level(dtype: np.dtype[Any]) -> float:
    """Value of white: 255, 65535, or 1 for floats. Raises UserError for another type."""
    if dtype.kind == 'u' and dtype.itemsize <= 2:  # of either byte order
        return float(np.iinfo(dtype).max)
    if dtype.kind == 'f':
        return 1.0
    raise UserError(f'expected uint8, uint16 or float in [0, 1], got {dtype}')


def is_grey(pixels: np.ndarray) -> bool:
    """Whether (..., C) has one channel, or C equal ones."""
    return pixels.shape[-1] == 1 or bool((pixels[..., :1] == pixels).all())


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The centre of (H, W, C), at most ``side`` pixels a side, contiguous."""
    top, left = (max(length - side, 0) // 2 for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def detail_crop_corner(image: np.ndarray, height: int, width: int, step: int) -> tuple[int, int]:
    """Corner (top, left) of a crop whose detail is at the upper quartile: structure, not only texture.

    Args:
        image: (H, W, C), any range.
        height, width: size of the crop in pixels.
        step: distance of the candidate corners in pixels.
    """
    grey = image.astype(np.float32).mean(axis=2)
    rows, columns = (max(side - crop + 1, 1) for side, crop in zip(grey.shape, (height, width)))
    corners = [(top, left) for top in range(0, rows, step) for left in range(0, columns, step)]
    detail = [grey[top : top + height, left : left + width].std() for top, left in corners]
    return corners[int(np.argsort(detail)[int(0.75 * (len(corners) - 1))])]
