"""Image arrays: the shapes and types that every denoiser takes, value of white, crops."""

from __future__ import annotations

from typing import Any

import numpy as np

from basicsr_sassid.utils.errors import UserError


def as_hwc(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1) or (H, W, 3) as (H, W, C). Raises UserError for another shape."""
    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(f'expected an image of shape (H, W), (H, W, 1) or (H, W, 3), got {image.shape}')
    return pixels


def white_level(dtype: np.dtype[Any]) -> float:
    """Value of white: 255, 65535, or 1 for floats. Raises UserError for another type."""
    if dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return float(np.iinfo(dtype).max)
    if np.issubdtype(dtype, np.floating):
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
