"""Photographs in memory, and what a file's header tells of one."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from basicsr_sassid.utils.errors import UserError

MOST_MEGAPIXELS = 500  # three times the largest camera; 16-bit RGB of this size takes 3 GB
_DPI = (1, 65535)  # what JPEG can hold; values outside are nonsense of some writer

AlphaKind = Literal['unassociated', 'associated', 'unspecified']


@dataclasses.dataclass
class Photo:
    """One image file in memory.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, C = 1 (grey) or 3 (RGB), as stored: EXIF orientation is not applied.
        alpha: (H, W) in the dtype of pixels, or None.
        icc: ICC profile, or None.
        exif: EXIF block, or None.
        dpi: pixels per inch, horizontal and vertical, or None.
        alpha_kind: ``'associated'``: the pixels are stored multiplied by alpha, and are denoised as such;
            ``'unassociated'``: they are not; ``'unspecified'``: a TIFF that does not tell what the channel means.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    alpha_kind: AlphaKind = 'unassociated'

    @property
    def white(self) -> int:
        """Value of white: 255 or 65535."""
        return np.iinfo(self.pixels.dtype).max

    @property
    def header(self) -> PhotoHeader:
        """Size and kind."""
        height, width, channels = self.pixels.shape
        return PhotoHeader(height, width, self.pixels.dtype == np.uint16, self.alpha is not None, channels == 1)

    def as_rgb_float(self) -> np.ndarray:
        """(H, W, 3), float32 in [0, 1]; grey is repeated, alpha left out."""
        rgb = np.broadcast_to(self.pixels, (*self.pixels.shape[:2], 3))
        return rgb.astype(np.float32) / self.white

    def interleaved(self) -> np.ndarray:
        """Pixels and alpha: (H, W) or (H, W, 2 to 4), contiguous."""
        if self.alpha is not None:
            return np.dstack((self.pixels, self.alpha))
        return np.ascontiguousarray(self.pixels[..., 0] if self.pixels.shape[2] == 1 else self.pixels)

    def unassociated(self) -> Photo:
        """The photo with pixels that are not multiplied by alpha, for formats that know no other."""
        if self.alpha is None or self.alpha_kind != 'associated':
            return self
        alpha = np.maximum(self.alpha, 1)[..., None].astype(np.uint64)
        pixels = (self.pixels.astype(np.uint64) * self.white + alpha // 2) // alpha
        return dataclasses.replace(
            self, pixels=pixels.clip(0, self.white).astype(self.pixels.dtype), alpha_kind='unassociated'
        )


@dataclasses.dataclass(frozen=True)
class PhotoHeader:
    """What the header of a file tells without reading its pixels.

    Attributes:
        height, width: in pixels, as stored.
        is_16_bit: more than 8 bits a sample.
        has_alpha: it has an alpha channel, or a transparent colour.
        is_grey: it has no colours.
    """

    height: int
    width: int
    is_16_bit: bool
    has_alpha: bool
    is_grey: bool

    def check_size(self) -> None:
        """Raise UserError if the photo has no pixels, or too many to hold in memory."""
        megapixels = self.height * self.width / 1e6
        if not megapixels:
            raise UserError(f'it has no pixels (height {self.height}, width {self.width}). Take it out of the folder.')
        if megapixels > MOST_MEGAPIXELS:
            raise UserError(
                f'it has {megapixels:.0f} megapixels, and up to {MOST_MEGAPIXELS} are read. Cut it into parts first '
                '(magick FILE -crop 8192x8192 +repage part_%d.png).'
            )


def split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(H, W) or (H, W, 1 to 4) -> (H, W, 1 or 3), and alpha (H, W) where there are 2 or 4 channels."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] in (2, 4):
        return np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1])
    if pixels.shape[2] not in (1, 3):
        raise UserError(f'expected 1 to 4 channels, got {pixels.shape[2]}; convert it to RGB or grey first.')
    return np.ascontiguousarray(pixels), None


def valid_dpi(x: float, y: float) -> tuple[float, float] | None:
    """Pixels per inch, None where the values are no resolution."""
    return (x, y) if all(_DPI[0] <= value <= _DPI[1] for value in (x, y)) else None


def refuse_pages(count: int) -> None:
    """Raise UserError if a file has several pages or frames: a result would have one of them."""
    if count > 1:
        raise UserError(
            f'it has {count} pages or frames, and a file of one photograph is expected. Split it first (magick FILE '
            'page_%d.png).'
        )
