"""What is written in the end: the student, the classical result, and as much of the input as was asked for."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

Denoise = Callable[..., np.ndarray]
_ROWS = 256  # mixed at a time
_COARSE = 16  # pixels: what is larger is colour and light, not noise


@dataclasses.dataclass
class BlendedDenoiser:
    """A mean of two denoisers, blended with the input.

    Attributes:
        classical: the denoiser that needs no training; None with ``share`` 1.
        student: the trained one; None with ``share`` 0.
        share: of the student, 0 to 1.
        strength: 0 to 1, how much of what they remove is removed.
        chroma: the same for differences of colour; by default as ``strength``.
        keep_colour: take the colour of large areas from the input.
    """
    classical: Denoise | None
    student: Denoise | None
    share: float
    strength: float = 1.
    chroma: float | None = None
    keep_colour: bool = False

    def __call__(self, pixels: np.ndarray, progress: Callable[[float], None] | None = None) -> np.ndarray:
        """(H, W, 1) or (H, W, 3), uint8 or uint16, to the same."""
        white = np.iinfo(pixels.dtype).max
        fine = pixels if white == 65535 else pixels.astype(np.uint16) * 257  # fractions of a grey level
        parts = [(denoise, share) for denoise, share in ((self.classical, 1 - self.share), (self.student, self.share))
                 if share > 0]
        results = []
        for number, (denoise, share) in enumerate(parts):
            def show(done: float, number: int = number) -> None:
                if progress:
                    progress((number + done) / len(parts))
            results.append((denoise(fine, show), share))
        result = np.empty_like(pixels)
        for top in range(0, len(pixels), _ROWS):
            rows = slice(top, top + _ROWS)
            mean = sum(part[rows].astype(np.float32) * share for part, share in results)
            result[rows] = (self._blend(fine[rows].astype(np.float32), mean) * (white / 65535)).round().clip(0, white)
        return _with_colour_of(pixels, result) if self.keep_colour else result

    def on_floats(self, image: np.ndarray) -> np.ndarray:
        """The same for (H, W, 3) float32 in [0, 1]."""
        return self((image * 65535).round().astype(np.uint16)).astype(np.float32) / 65535

    def _blend(self, noisy: np.ndarray, clean: np.ndarray) -> np.ndarray:
        chroma = self.strength if self.chroma is None else self.chroma
        removed = noisy - clean
        grey = removed.mean(axis=2, keepdims=True)
        return noisy - self.strength * grey - chroma * (removed - grey)


def _with_colour_of(pixels: np.ndarray, result: np.ndarray) -> np.ndarray:
    """``result`` with the means of ``pixels`` over large areas."""
    height, width = pixels.shape[:2]
    small = (-(-width // _COARSE), -(-height // _COARSE))
    coarse = [cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.float32) for image in (pixels, result)]
    shift = cv2.GaussianBlur(coarse[0] - coarse[1], (0, 0), 4)
    shift = cv2.resize(shift, (width, height), interpolation=cv2.INTER_LINEAR).reshape(pixels.shape)
    return (result + shift).round().clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
