"""PNG, JPEG, BMP and WebP. Pillow reads and writes them and finds damage; imagecodecs has the 16-bit PNGs."""

from __future__ import annotations

import contextlib
import struct
import threading
import zlib
from collections.abc import Generator
from io import BytesIO
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from PIL import Image

from basicsr_sassid.io.photo_data import Photo, PhotoHeader, refuse_pages, split_alpha, valid_dpi
from basicsr_sassid.utils.errors import UserError

_COLOUR_MODES = {'1': 'L', 'L': 'L', 'LA': 'LA', 'P': 'RGB', 'PA': 'RGBA', 'RGB': 'RGB', 'RGBA': 'RGBA', 'YCbCr': 'RGB'}
_WITH_ALPHA = {'L': 'LA', 'RGB': 'RGBA'}
_PILLOW_NAMES = {'.jpg': 'JPEG', '.jpeg': 'JPEG', '.png': 'PNG', '.bmp': 'BMP', '.webp': 'WEBP'}
_SETTINGS: dict[str, dict[str, Any]] = {'JPEG': {'quality': 95, 'subsampling': 0}, 'WEBP': {'lossless': True}}
_DEPTH, _COLOUR, _AFTER_HEADER = 24, 25, 33  # bytes into a PNG: bits a sample, colour type, the chunk after IHDR
_GREY = (0, 4)  # colour types of a PNG: grey, grey with alpha
_METRES_PER_INCH = 0.0254
_MPO_ENTRIES, _MULTI_FRAME, _UNDEFINED = 0xB002, 'Multi-Frame Image', 'Undefined'  # pictures of a JPEG
_limit_lock = threading.Lock()


@contextlib.contextmanager
def _open(file: BinaryIO) -> Generator[Image.Image, None, None]:
    """The file as a Pillow image whose pixels are not read yet. Raises UserError for an unsupported kind."""
    with _without_pixel_limit():
        image = Image.open(file)
        count = _count_pictures(file) if image.format == 'MPO' else getattr(image, 'n_frames', 1)
    with image:
        _header(image, file).check_size()
        refuse_pages(count)
        yield image


@contextlib.contextmanager
def _without_pixel_limit() -> Generator[None, None, None]:
    """Switch off Pillow's limit, a setting of the module, while a file is opened; check_size has our own."""
    with _limit_lock:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = most


def read_header(file: BinaryIO) -> PhotoHeader:
    """The header. Raises UserError for an unsupported kind, anything for damage."""
    with _open(file) as image:
        return _header(image, file)


def read(file: BinaryIO) -> Photo:
    """The photograph. Raises UserError for an unsupported kind, anything for damage."""
    with _open(file) as image:
        has_transparent_colour = image.format == 'PNG' and 'transparency' in image.info and image.mode != 'P'
        needs_libpng = _is_16_bit(image, file) or has_transparent_colour
        image.load()  # finds damage; metadata may stand after the pixels
        if needs_libpng:  # Pillow has no 16-bit RGB, and misses a transparent colour of 2 or 4 bits
            file.seek(0)
            pixels = imagecodecs.png_decode(file.read())
        else:
            mode = _target_mode(image)
            pixels = np.array(image if image.mode == mode else image.convert(mode))
        return Photo(
            *split_alpha(pixels), icc=image.info.get('icc_profile'), exif=image.info.get('exif'), dpi=_dpi(image)
        )


def _is_16_bit(image: Image.Image, file: BinaryIO) -> bool:
    return image.format == 'PNG' and _byte(file, _DEPTH) == 16


def _is_grey(image: Image.Image, file: BinaryIO) -> bool:
    if image.format == 'PNG':  # whose mode is RGBA where it is grey with alpha, of 16 bits
        return _byte(file, _COLOUR) in _GREY
    return image.mode in ('1', 'L', 'LA')


def _byte(file: BinaryIO, position: int) -> int:
    before = file.tell()
    file.seek(position)
    value = file.read(1)[0]
    file.seek(before)
    return value


def _target_mode(image: Image.Image) -> str:
    if image.mode not in _COLOUR_MODES:
        raise UserError(f'its colour mode {image.mode} is not supported; convert it to RGB or grey first.')
    mode = _COLOUR_MODES[image.mode]
    return _WITH_ALPHA.get(mode, mode) if 'transparency' in image.info else mode


def _header(image: Image.Image, file: BinaryIO) -> PhotoHeader:
    is_16_bit = _is_16_bit(image, file)
    has_alpha = 'transparency' in image.info or image.mode in ('LA', 'PA', 'RGBA')
    if not is_16_bit:
        has_alpha = _target_mode(image) in ('LA', 'RGBA')
    return PhotoHeader(image.height, image.width, is_16_bit, has_alpha, _is_grey(image, file))


def _count_pictures(file: BinaryIO) -> int:
    """Pictures of a JPEG that has several (MPO), without previews and gain maps of the first."""
    with Image.open(file) as image:
        size, count = image.size, 1
        entries: Any = getattr(image, 'mpinfo', {}).get(_MPO_ENTRIES, ())
        for number, entry in enumerate(entries[1:], start=1):
            kind = str(entry['Attribute']['MPType'])
            if kind == _UNDEFINED:
                with contextlib.suppress(Exception):  # the entry of a picture that was stripped since
                    image.seek(number)
                    count += image.size == size and image.mode == 'RGB'
            else:
                count += kind.startswith(_MULTI_FRAME)
    return count


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Pixels per inch of the file itself; Pillow's own value for JPEG can stem from EXIF, which is kept anyway."""
    if 'jfif_unit' in image.info:
        scale = {1: 1.0, 2: 2.54}.get(image.info['jfif_unit'])
        x, y = image.info['jfif_density']
        return None if scale is None else valid_dpi(x * scale, y * scale)
    if image.format in ('PNG', 'BMP') and 'dpi' in image.info:
        x, y = image.info['dpi']
        return valid_dpi(float(x), float(y))
    return None


def encode(photo: Photo, suffix: str) -> bytes:
    """The photo in the format of a file name's ending, with its profile, EXIF block and resolution.

    JPEG has quality 95 without chroma subsampling, WebP is lossless.
    """
    if photo.pixels.dtype == np.uint16:
        return _encode_16_bit_png(photo)
    name = _PILLOW_NAMES[suffix]
    metadata = {'icc_profile': photo.icc, 'exif': photo.exif, 'dpi': photo.dpi}
    settings = {key: value for key, value in metadata.items() if value}
    buffer = BytesIO()
    Image.fromarray(photo.interleaved()).save(buffer, format=name, **settings, **_SETTINGS.get(name, {}))
    return buffer.getvalue()


def _encode_16_bit_png(photo: Photo) -> bytes:
    png = imagecodecs.PNG
    content = imagecodecs.png_encode(  # as OpenCV: half the time of the defaults for noisy photographs, same size
        photo.interleaved(), level=png.COMPRESSION.SPEED, strategy=png.STRATEGY.RLE, filter=png.FILTER.SUB
    )
    chunks = b''
    if photo.icc:
        chunks += _chunk(b'iCCP', b'ICC Profile\0\0' + zlib.compress(photo.icc))
    if photo.dpi:
        per_metre = [round(value / _METRES_PER_INCH) for value in photo.dpi]
        chunks += _chunk(b'pHYs', struct.pack('>IIB', *per_metre, 1))
    if photo.exif:
        chunks += _chunk(b'eXIf', photo.exif.removeprefix(b'Exif\0\0'))
    return bytes(content[:_AFTER_HEADER] + chunks + content[_AFTER_HEADER:])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
