"""TIFF files with tifffile and imagecodecs: the page of the photograph, its pixels and tags.

Pillow reads the few kinds that tifffile leaves as stored: palettes, and YCbCr outside of JPEG.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Generator
from fractions import Fraction
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from basicsr_sassid.io.photo_data import AlphaKind, Photo, PhotoHeader, refuse_pages, split_alpha, valid_dpi
from basicsr_sassid.utils.errors import UserError

MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # how the files begin
_ORIENTATION, _X_RESOLUTION, _Y_RESOLUTION, _ICC = 274, 282, 283, 34675  # tags
_PER_INCH = {2: 1.0, 3: 2.54}  # by resolution unit: inch, cm; without one, the tags are an aspect ratio
_THUMBNAIL = 4  # a page with this fraction of the photograph's sides, or less, shows it small
_UNSIGNED = (1, 4)  # sample formats: unsigned integer, undefined
_COLOURS = {
    tifffile.PHOTOMETRIC.MINISWHITE: 1,
    tifffile.PHOTOMETRIC.MINISBLACK: 1,
    tifffile.PHOTOMETRIC.RGB: 3,
    tifffile.PHOTOMETRIC.YCBCR: 3,
    tifffile.PHOTOMETRIC.PALETTE: 1,
}
_ALPHA_KINDS: dict[int, AlphaKind] = {0: 'unspecified', 1: 'associated', 2: 'unassociated'}
# what tifffile finds odd in a file is no line on the terminal; damage is raised, or found by _check_segments
logging.getLogger('tifffile').addHandler(logging.NullHandler())
_EXTRA_SAMPLES = {'unspecified': 'unspecified', 'associated': 'assocalpha', 'unassociated': 'unassalpha'}


def read_tiff_header(file: BinaryIO) -> PhotoHeader:
    """Header of the photograph's page. Raises UserError for an unsupported kind, anything for damage."""
    with _open_page(file) as (_, page):
        return _header(page)


def read_tiff(file: BinaryIO) -> Photo:
    """The photograph. Raises UserError for an unsupported kind, anything for damage."""
    with _open_page(file) as (number, page):
        pixels = _read_with_pillow(file, number) if _needs_pillow(page) else _decode(page)
        photo = Photo(*split_alpha(pixels), icc=_icc(page), exif=_orientation(page), dpi=_dpi(page))
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            photo.pixels = photo.white - photo.pixels
        if page.extrasamples:
            photo.alpha_kind = _ALPHA_KINDS[int(page.extrasamples[0])]
        elif photo.alpha is not None:
            photo.alpha_kind = 'unspecified'
        return photo


@contextlib.contextmanager
def _open_page(file: BinaryIO) -> Generator[tuple[int | None, Any], None, None]:
    """The photograph's page, and its number (None: it is below another page)."""
    with tifffile.TiffFile(file) as tiff:
        numbered: list[tuple[int | None, Any]] = []
        for number, page in enumerate(tiff.pages):
            numbered += [(number, page), *((None, sub) for sub in getattr(page, 'pages', None) or ())]
        number, page = _choose([entry for entry in numbered if not entry[1].is_reduced] or numbered)
        if tiff.is_shaped or tiff.is_imagej:  # these writers can describe many pages by the tags of one
            refuse_pages(tiff.series[0].size // max(page.size, 1))
        _check_kind(page)
        _header(page).check_size()
        _check_segments(page, tiff.filehandle.size)
        yield number, page


def _choose(pages: list[tuple[int | None, Any]]) -> tuple[int | None, Any]:
    """The largest page. Raises UserError if another one is more than its thumbnail."""
    number, photo = max(pages, key=lambda entry: entry[1].imagelength * entry[1].imagewidth)
    others = [
        page
        for _, page in pages
        if page is not photo
        and (page.imagelength * _THUMBNAIL > photo.imagelength or page.imagewidth * _THUMBNAIL > photo.imagewidth)
    ]
    refuse_pages(1 + len(others))
    return number, photo


def _check_kind(page: Any) -> None:
    if page.photometric not in _COLOURS:
        name = getattr(page.photometric, 'name', page.photometric)
        raise UserError(f'its colour mode {name} is not supported; convert it to RGB or grey.')
    bits, samples = page.bitspersample, page.samplesperpixel
    if not isinstance(bits, int) or bits > 16 or page.sampleformat not in _UNSIGNED or page.imagedepth != 1:
        raise UserError(f'expected 8 or 16 bits a sample, got {page.dtype}, shape {page.shape}; convert it first.')
    if samples - _COLOURS[page.photometric] not in (0, 1):
        name = page.photometric.name
        raise UserError(f'its {samples} channels of kind {name} are no grey or RGB with alpha; convert it first.')


def _check_segments(page: Any, file_size: int) -> None:
    """Raise ValueError if strips or tiles are missing or cut off: some decoders would show them black."""
    segments = list(zip(page.dataoffsets, page.databytecounts))
    if len(segments) < math.prod(page.chunked) or not all(start and length for start, length in segments):
        raise ValueError('parts of its pixels are missing')
    if max(start + length for start, length in segments) > file_size:
        raise ValueError('its pixels end behind the end of the file')


def _header(page: Any) -> PhotoHeader:
    has_alpha = page.samplesperpixel > _COLOURS[page.photometric]
    is_grey = _COLOURS[page.photometric] == 1 and page.photometric != tifffile.PHOTOMETRIC.PALETTE
    return PhotoHeader(page.imagelength, page.imagewidth, page.bitspersample > 8, has_alpha, is_grey)


def _needs_pillow(page: Any) -> bool:
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR:  # tifffile converts those in JPEG to RGB, and no others
        return page.compression not in (tifffile.COMPRESSION.JPEG, tifffile.COMPRESSION.OJPEG)
    return page.photometric == tifffile.PHOTOMETRIC.PALETTE


def _read_with_pillow(file: BinaryIO, number: int | None) -> np.ndarray:
    if number is None:
        raise UserError('its photograph is below another page, in a form that is not supported; convert it first.')
    file.seek(0)
    with Image.open(file) as image:
        image.seek(number)
        return np.array(image.convert('L' if image.mode == 'L' else 'RGB'))


def _decode(page: Any) -> np.ndarray:
    """(H, W) or (H, W, C), uint8 or uint16; other depths are scaled to the next larger of the two."""
    pixels = page.asarray()
    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, 2)
    bits: int = page.bitspersample
    if bits in (8, 16):
        return pixels
    stored, white = 2**bits - 1, 255 if bits < 8 else 65535
    return ((pixels.astype(np.uint32) * white + stored // 2) // stored).astype(np.uint8 if bits < 8 else np.uint16)


def _icc(page: Any) -> bytes | None:
    tag = page.tags.get(_ICC)
    return None if tag is None else bytes(tag.value)


def _orientation(page: Any) -> bytes | None:
    """The orientation as an EXIF block; None where it is upright."""
    tag = page.tags.get(_ORIENTATION)
    if tag is None or tag.value == 1:
        return None
    exif = Image.Exif()
    exif[_ORIENTATION] = int(tag.value)
    return exif.tobytes()


def _dpi(page: Any) -> tuple[float, float] | None:
    scale = _PER_INCH.get(int(page.resolutionunit))
    if scale is None or _X_RESOLUTION not in page.tags or _Y_RESOLUTION not in page.tags:
        return None
    x, y = page.resolution
    return valid_dpi(x * scale, y * scale)


def encode_tiff(photo: Photo) -> bytes:
    """The photo as a TIFF with deflate compression. Of the EXIF block, the orientation is kept."""
    pixels = photo.interleaved()
    exif = Image.Exif()
    exif.load(photo.exif or b'')
    tags = [(_ORIENTATION, 'H', 1, int(exif[_ORIENTATION]), True)] if _ORIENTATION in exif else []
    resolution: dict[str, Any] = {}
    if photo.dpi is not None:
        fractions = [Fraction(value).limit_denominator(10000) for value in photo.dpi]
        ratios = tuple((value.numerator, value.denominator) for value in fractions)
        resolution = {'resolution': ratios, 'resolutionunit': 'INCH'}
    buffer = BytesIO()
    tifffile.imwrite(
        buffer,
        pixels,
        iccprofile=photo.icc,
        extratags=tags,
        photometric='rgb' if photo.pixels.shape[2] == 3 else 'minisblack',
        planarconfig='contig' if pixels.ndim == 3 else None,
        extrasamples=[_EXTRA_SAMPLES[photo.alpha_kind]] if photo.alpha is not None else None,
        compression='deflate',
        metadata=None,
        **resolution,
    )
    return buffer.getvalue()
