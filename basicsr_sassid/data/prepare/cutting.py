"""Cut an image into sub-images, each encoded as PNG."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import mmcv
import numpy as np

from basicsr_sassid.utils.option_checks import check_number

COMPRESSION = 1  # PNG level: larger files, but read twice as fast as BasicSR's default of 3
_MAX_SIZE, _MAX_THREADS = 65535, 256  # pixels, threads


@dataclasses.dataclass(frozen=True)
class SubImage:
    """A part of an image, encoded."""

    key: str
    png: bytes
    shape: tuple[int, ...]


def check_cutting(size: int, step: int | None, workers: int | None, least: int = 1) -> None:
    """Raise UserError for a size, step or number of threads that is out of range: a step above the size leaves gaps."""
    check_number(size, least, '--size', _MAX_SIZE)
    if step is not None:
        check_number(step, 1, '--step', size)
    if workers is not None:
        check_number(workers, 1, '--workers', _MAX_THREADS)


def cut(pixels: np.ndarray, key: str, size: int, step: int) -> Iterator[SubImage]:
    """The sub-images of (H, W, C) pixels, uint8 or uint16 RGB or grey. ``size`` 0: the image itself."""
    height, width = pixels.shape[:2]
    for top in starts(height, size, step):
        for left in starts(width, size, step):
            bottom, right = min(top + (size or height), height), min(left + (size or width), width)
            part: Any = mmcv.imcrop(pixels, np.array([left, top, right - 1, bottom - 1]))
            part = mmcv.rgb2bgr(part) if part.shape[2] == 3 else part
            _, content = cv2.imencode('.png', part, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
            yield SubImage(f'{key}_y{top:05d}_x{left:05d}' if size else key, content.tobytes(), part.shape)


def starts(side: int, size: int, step: int) -> list[int]:
    """Starts of the sub-images over a line of ``side`` pixels; the last one ends with the line."""
    if not size:
        return [0]
    last = max(side - size, 0)
    return sorted({*range(0, last + 1, step), last})
