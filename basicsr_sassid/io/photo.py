"""Read and write photographs: 8 or 16 bit, grey, RGB or with alpha, PNG, JPEG, TIFF, BMP, WebP.

Pillow reads and writes 8-bit files, and checks every file for damage. It does not support 16-bit RGB, for which OpenCV
(PNG) and tifffile (TIFF) are used. A damaged file is refused.
"""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.foreign_formats import refuse_foreign
from basicsr_sassid.utils.errors import UserError

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp')
_COLOUR_MODES = {
    '1': 'L',
    'L': 'L',
    'LA': 'LA',
    'P': 'RGBA',
    'PA': 'RGBA',
    'RGB': 'RGB',
    'RGBA': 'RGBA',
    'YCbCr': 'RGB',
}
_TIFF = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')  # how the files begin
_ORIENTATION, _ICC = 274, 34675  # TIFF tags
_JPEG: dict[str, Any] = {'quality': 95, 'subsampling': 0}
_QUALITY: dict[str, dict[str, Any]] = {'.jpg': _JPEG, '.jpeg': _JPEG, '.webp': {'lossless': True}}


@dataclasses.dataclass
class Photo:
    """One image file in memory.

    Attributes:
        pixels: (H, W, C), uint8 or uint16, C = 1 (grey) or 3 (RGB), as stored: EXIF orientation is not applied.
        alpha: (H, W) in the dtype of pixels, or None.
        icc: ICC profile, or None.
        exif: EXIF block, or None.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None

    @property
    def white(self) -> int:
        """Value of white: 255 or 65535."""
        return np.iinfo(self.pixels.dtype).max

    def as_rgb_float(self) -> np.ndarray:
        """(H, W, 3), float32 in [0, 1]; grey is repeated, alpha left out."""
        rgb = np.broadcast_to(self.pixels, (*self.pixels.shape[:2], 3))
        return rgb.astype(np.float32) / self.white


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below ``folder``, hidden ones left out, sorted."""
    folder = Path(folder)
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) from the file's header. Raises UserError if the file is no readable image."""
    refuse_foreign(path)
    try:
        if Path(path).suffix.lower() in ('.tif', '.tiff'):
            with tifffile.TiffFile(path) as tiff:
                page: Any = tiff.pages[0]
                return page.imagelength, page.imagewidth
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # as in decode_photo
        raise UserError(f'cannot read {path}: {_reason(error)}. Repair it or take it out of the folder.') from error


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read an image file. Raises UserError if it is missing, damaged, cut off or of an unsupported kind."""
    refuse_foreign(path)
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error}.') from error
    return decode_photo(content, str(path))


def decode_photo(content: bytes, name: str) -> Photo:
    """:func:`read_photo` on a file's content; ``name`` is for the error."""
    try:
        return _decode(content)
    except UserError as error:
        raise UserError(f'cannot read {name}: {error}') from error
    except Exception as error:  # decoders raise anything on damaged data: struct.error, IndexError, zlib.error ...
        raise UserError(f'cannot read {name}: {_reason(error)}. Repair it or take it out of the folder.') from error


def _reason(error: Exception) -> str:
    if isinstance(error, (UnidentifiedImageError, tifffile.TiffFileError)):
        return 'it is no image of a known format'
    return f'it is damaged or cut off ({error})'


def _decode(content: bytes) -> Photo:
    if not content:
        raise UserError('the file is empty. Take it out of the folder.')
    if content[:4] in _TIFF:
        return _decode_tiff(content)
    with Image.open(io.BytesIO(content)) as image:
        icc, exif = image.info.get('icc_profile'), image.info.get('exif')
        if image.format == 'PNG' and content[24] == 16:  # IHDR's bit depth
            image.load()  # Pillow does not support 16-bit RGB, but it finds damage that OpenCV passes over
            pixels = cast(np.ndarray, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED))
            if pixels.ndim == 3:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
        else:
            if image.mode not in _COLOUR_MODES:
                raise UserError(f'its colour mode {image.mode} is not supported; convert it to RGB or grey first.')
            mode = _COLOUR_MODES[image.mode]
            if image.mode == 'P' and 'transparency' not in image.info:
                mode = 'RGB'
            pixels = np.array(image if image.mode == mode else image.convert(mode))
        return Photo(*_split_alpha(pixels), icc=icc, exif=exif)


def _decode_tiff(content: bytes) -> Photo:
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page: Any = tiff.pages[0]
        pixels = page.asarray()
        orientation, icc = page.tags.get(_ORIENTATION), page.tags.get(_ICC)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            pixels = np.iinfo(pixels.dtype).max - pixels
        elif page.photometric not in (
            tifffile.PHOTOMETRIC.MINISBLACK,
            tifffile.PHOTOMETRIC.RGB,
            tifffile.PHOTOMETRIC.YCBCR,
        ):
            raise UserError(f'its colour mode {page.photometric.name} is not supported; convert it to RGB or grey.')
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, 2)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim > 3:
        raise UserError(f'expected 8 or 16 bits a sample, got {pixels.dtype}, shape {pixels.shape}; convert it first.')
    exif = None
    if orientation is not None and orientation.value != 1:
        tags = Image.Exif()
        tags[_ORIENTATION] = int(orientation.value)
        exif = tags.tobytes()
    return Photo(*_split_alpha(pixels), icc=icc and bytes(icc.value), exif=exif)


def _split_alpha(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[2] in (2, 4):
        return np.ascontiguousarray(pixels[..., :-1]), np.ascontiguousarray(pixels[..., -1])
    if pixels.shape[2] not in (1, 3):
        raise UserError(f'expected 1 to 4 channels, got {pixels.shape[2]}; convert it to RGB or grey first.')
    return pixels, None


def write_photo(photo: Photo, path: str | os.PathLike[str]) -> None:
    """Write a photo with its alpha, ICC profile and EXIF block; the extension of ``path`` gives the format.

    JPEG is written at quality 95 without chroma subsampling. The write is atomic.

    Raises:
        UserError: the format does not support the photo (16 bits in a JPEG, say), or the file cannot be written.
    """
    path = Path(path)
    check_writable(photo, path)
    suffix, deep = path.suffix.lower(), photo.pixels.dtype == np.uint16
    pixels = photo.pixels if photo.alpha is None else np.dstack((photo.pixels, photo.alpha))
    with atomic_write(path) as partial:
        if suffix in ('.tif', '.tiff'):
            _write_tiff(photo, pixels, partial)
        elif deep:
            _write_deep_png(photo, pixels, partial)
        else:
            metadata = {key: value for key, value in (('icc_profile', photo.icc), ('exif', photo.exif)) if value}
            settings: dict[str, Any] = {**metadata, **_QUALITY.get(suffix, {})}
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(partial, **settings)


def check_writable(photo: Photo, path: Path) -> None:
    """Raise UserError if the format of ``path`` does not support the photo."""
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise UserError(f'cannot write {path}: unknown format {suffix!r}; known: {", ".join(EXTENSIONS)}')
    deep = photo.pixels.dtype == np.uint16
    if deep and suffix not in ('.png', '.tif', '.tiff'):
        raise UserError(f'cannot write {path}: {suffix} has no 16 bits a sample; choose .png or .tif')
    if photo.alpha is not None and suffix in ('.jpg', '.jpeg', '.bmp'):
        raise UserError(f'cannot write {path}: {suffix} has no alpha channel; choose .png or .tif')


def _write_tiff(photo: Photo, pixels: np.ndarray, path: Path) -> None:
    tags: list[tuple[int, str, int, int, bool]] = []
    if photo.exif:
        exif = Image.Exif()
        exif.load(photo.exif)
        if _ORIENTATION in exif:
            tags.append((_ORIENTATION, 'H', 1, int(exif[_ORIENTATION]), True))
    tifffile.imwrite(
        path,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],
        iccprofile=photo.icc,
        extratags=tags,
        photometric='rgb' if photo.pixels.shape[2] == 3 else 'minisblack',
        planarconfig='contig' if pixels.shape[2] > 1 else None,
        extrasamples=['unassalpha'] if photo.alpha is not None else None,
        compression='deflate',
    )


def _write_deep_png(photo: Photo, pixels: np.ndarray, path: Path) -> None:
    if pixels.shape[2] == 2:
        raise UserError('16-bit grey with alpha cannot be written as PNG; choose .tif')
    if pixels.shape[2] >= 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    kinds: list[int] = []
    blocks: list[np.ndarray] = []
    for kind, block in (
        (cv2.IMAGE_METADATA_ICCP, photo.icc),
        (cv2.IMAGE_METADATA_EXIF, photo.exif and photo.exif.removeprefix(b'Exif\x00\x00')),
    ):
        if block:
            kinds.append(kind)
            blocks.append(np.frombuffer(block, np.uint8))
    if not cv2.imwriteWithMetadata(str(path), pixels, kinds, blocks):
        raise OSError('OpenCV could not write it')
