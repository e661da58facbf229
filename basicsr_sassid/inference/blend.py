"""BlendedDenoiser: the weighted mean of two denoisers, with an adjustable strength."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np

from basicsr_sassid.ops.arrays import checked_image
from basicsr_sassid.utils.sequences import Progress, scaled

Denoise = Callable[..., np.ndarray]  # called with pixels and a Progress
_ROWS = 256  # blended at a time, which bounds the memory
_COARSE = 16  # pixels: detail on a larger scale is colour and light, not noise


@dataclasses.dataclass
class BlendedDenoiser:
    """Weighted mean of a classical denoiser and a trained network, applied with an adjustable strength.

    Attributes:
        classical: the denoiser without training; None with ``student_weight`` 1.
        student: the trained network; None with ``student_weight`` 0.
        student_weight: weight of the student in the mean, 0 to 1.
        strength: fraction of the removed noise that is removed in the output, 0 to 1.
        chroma: the same for colour differences; by default ``strength``.
        keep_colour: take the colour of large areas from the input.
        align_colour: give the student's result the colour of large areas of the classical one. The classical denoiser
            filters noise of mean zero, and restores what gamma encoding has darkened; a network has learned the median
            of the noise it was trained on.

    Raises:
        ValueError: a denoiser with a weight above 0 is None.
    """

    classical: Denoise | None
    student: Denoise | None
    student_weight: float
    strength: float = 1.0
    chroma: float | None = None
    keep_colour: bool = False
    align_colour: bool = False

    def __post_init__(self) -> None:
        if (self.classical is None and self.student_weight < 1) or (self.student is None and self.student_weight > 0):
            raise ValueError(f'student_weight {self.student_weight}: a denoiser that it needs is None')

    def __call__(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Denoise one image.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in [0, 1].
            progress: called with the fraction done, 0 to 1.

        Returns:
            The denoised image, of the same shape, dtype and range; floats in steps of 1/65535.

        Raises:
            UserError: another kind of image, see :func:`checked_image`.
        """
        pixels = checked_image(image)
        if pixels.dtype.kind == 'f':
            wide = pixels.astype(np.promote_types(pixels.dtype, np.float32))  # float16 does not reach 65535
            fine = (wide * 65535).round().clip(0, 65535).astype(np.uint16)
            denoised = self._denoise(fine, progress) / np.float32(65535)
        else:  # OpenCV takes the machine's byte order alone
            denoised = self._denoise(pixels.astype(pixels.dtype.newbyteorder('='), copy=False), progress)
        return denoised.astype(image.dtype, copy=False).reshape(image.shape)

    def _denoise(self, pixels: np.ndarray, progress: Progress | None) -> np.ndarray:
        """(H, W, C), uint8 or uint16, to the same."""
        white = np.iinfo(pixels.dtype).max
        fine = pixels if white == 65535 else pixels.astype(np.uint16) * 257  # keeps fractions of a grey level
        weighted = [
            (denoise, weight)
            for denoise, weight in ((self.classical, 1 - self.student_weight), (self.student, self.student_weight))
            if denoise is not None and (weight > 0 or (self.align_colour and denoise is self.classical))
        ]
        results = [
            (denoise(fine, scaled(progress, number / len(weighted), 1 / len(weighted))), weight)
            for number, (denoise, weight) in enumerate(weighted)
        ]
        if self.align_colour and len(results) > 1:
            results[1] = (restore_coarse_colour(results[1][0], results[0][0]), results[1][1])
        output = np.empty_like(fine)
        for top in range(0, len(pixels), _ROWS):
            rows = slice(top, top + _ROWS)
            mean = sum(result[rows].astype(np.float32) * weight for result, weight in results)
            blended = self._apply_strength(fine[rows].astype(np.float32), np.asarray(mean))
            output[rows] = blended.round().clip(0, 65535)
        output = restore_coarse_colour(output, fine) if self.keep_colour else output
        return output if white == 65535 else (output // 257 + (output % 257 > 128)).astype(pixels.dtype)

    def _apply_strength(self, noisy: np.ndarray, denoised: np.ndarray) -> np.ndarray:
        chroma = self.strength if self.chroma is None else self.chroma
        removed = noisy - denoised
        grey = removed.mean(axis=2, keepdims=True)
        return noisy - self.strength * grey - chroma * (removed - grey)


def restore_coarse_colour(denoised: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Shift ``denoised`` so that its means over large areas are those of ``reference``.

    Args:
        denoised, reference: (H, W, C), of the same shape and integer dtype.
    """
    shift = _coarse_difference(denoised, reference)
    output = np.empty_like(denoised)
    for top in range(0, len(denoised), _ROWS):
        rows = slice(top, min(top + _ROWS, len(denoised)))
        shifted = denoised[rows] + _enlarged(shift, rows, denoised.shape)
        output[rows] = shifted.round().clip(0, np.iinfo(denoised.dtype).max)
    return output


def coarse_colour_shift(denoised: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """What :func:`restore_coarse_colour` adds, of float32 images: (H, W, C)."""
    return _enlarged(_coarse_difference(denoised, reference), slice(0, len(denoised)), denoised.shape)


def _coarse_difference(denoised: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(H, W, C) -> (H / 16, W / 16, C)."""
    height, width, channels = denoised.shape
    small = (-(-width // _COARSE), -(-height // _COARSE))
    means = [
        cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.float32) for image in (reference, denoised)
    ]
    return cv2.GaussianBlur(means[0] - means[1], (0, 0), 4).reshape(small[1], small[0], channels)


def _enlarged(small: np.ndarray, rows: slice, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of ``small`` after its bilinear enlargement to ``shape``."""
    height, width, channels = shape
    y = ((np.arange(rows.start, rows.stop) + 0.5) * (small.shape[0] / height) - 0.5).astype(np.float32)
    x = ((np.arange(width) + 0.5) * (small.shape[1] / width) - 0.5).astype(np.float32)
    maps = (np.broadcast_to(x, (len(y), width)).copy(), np.repeat(y[:, None], width, axis=1))
    large = cv2.remap(small, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return large.reshape(len(y), width, channels)
