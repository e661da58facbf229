"""Read and write photographs: 8 or 16 bit, grey, RGB or with alpha, PNG, JPEG, TIFF, BMP, WebP.

Files are opened by Python alone: libraries in C get bytes, never a path, whose characters they may not support. A
damaged file is refused, and so is one of several pages.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import tifffile
from PIL import UnidentifiedImageError

from basicsr_sassid.io import pillow_formats, tiff
from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.foreign_formats import list_foreign, refuse_foreign
from basicsr_sassid.io.photo_data import MOST_MEGAPIXELS, Photo, PhotoHeader
from basicsr_sassid.utils.errors import UserError, check_path, require_path, special_file

__all__ = [
    'EXTENSIONS',
    'MOST_MEGAPIXELS',
    'Photo',
    'PhotoHeader',
    'check_writable',
    'decode_photo',
    'image_size',
    'list_images',
    'no_image',
    'read_header',
    'read_photo',
    'write_photo',
]
EXTENSIONS = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp')
_MOST_HINTS = 3
_TIFF = ('.tif', '.tiff')


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files below ``folder``, hidden ones and special files left out, sorted."""
    folder = Path(folder)
    return sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in EXTENSIONS
        and path.is_file()
        and not any(part.startswith('.') for part in path.relative_to(folder).parts)
    )


def find_images(entries: Sequence[str | os.PathLike[str]], where: str) -> list[Path]:
    """Image files that are named, and those of folders (searched below).

    Args:
        entries: files and folders.
        where: option that names them.

    Raises:
        UserError: one does not exist, or there is no image.
    """
    paths: list[Path] = []
    for entry in entries:
        path = require_path(entry, where)
        paths += list_images(path) if path.is_dir() else [path]
    if not paths:
        raise UserError(no_image(entries, where))
    return paths


def no_image(folders: Sequence[str | os.PathLike[str]], where: str) -> str:
    """Message that folders have no image that is read here, with how to convert the first files that they have.

    Args:
        folders: searched below.
        where: option that names them.
    """
    hints = [hint for folder in folders for hint in list_foreign(folder).values()][:_MOST_HINTS]
    names = ', '.join(map(str, folders))
    return '\n'.join([f'{where}: no image ({", ".join(EXTENSIONS)}) in {names} or below', *hints])


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(height, width) of what :func:`read_photo` reads, from the header. Raises UserError as read_header."""
    header = read_header(path)
    return header.height, header.width


def read_header(path: str | os.PathLike[str]) -> PhotoHeader:
    """Size and kind of what :func:`read_photo` reads, from the file's header.

    Raises:
        UserError: the file is no readable image: the kinds that read_photo refuses too.
    """
    refuse_foreign(path)
    with _open_regular(path) as file:
        try:
            return tiff.read_tiff_header(file) if _is_tiff(file) else pillow_formats.read_header(file)
        except Exception as error:  # as in decode_photo
            raise _unreadable(str(path), error) from error


def read_photo(path: str | os.PathLike[str]) -> Photo:
    """Read an image file.

    Raises:
        UserError: the file is missing, damaged, cut off, of an unsupported kind, of several pages, or too large.
    """
    refuse_foreign(path)
    try:
        with _open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error}.') from error
    return decode_photo(content, str(path))


def decode_photo(content: bytes, name: str) -> Photo:
    """:func:`read_photo` on a file's content; ``name`` is for the error."""
    try:
        file = BytesIO(content)
        return tiff.read_tiff(file) if _is_tiff(file) else pillow_formats.read(file)
    except Exception as error:  # decoders raise anything on damaged data: struct.error, IndexError, zlib.error ...
        raise _unreadable(name, error) from error


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read. Raises UserError if there is none, or reading could wait for ever (a named pipe)."""
    check_path(path, 'cannot read a photograph')
    try:
        kind = special_file(os.stat(path).st_mode)
        if kind:
            raise UserError(f'cannot read {path}: it is {kind}; a photograph must be a regular file.')
        return open(path, 'rb')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error.strerror or error}.') from error


def _is_tiff(file: BinaryIO) -> bool:
    """Whether the content is a TIFF, whatever the file's name. Raises UserError if there is none."""
    start = file.read(4)
    file.seek(0)
    if not start:
        raise UserError('the file is empty. Take it out of the folder.')
    return start in tiff.MAGIC


def _unreadable(name: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return UserError(f'cannot read {name}: {error}')
    if isinstance(error, MemoryError):
        reason = 'it does not fit into memory'
    elif isinstance(error, (UnidentifiedImageError, tifffile.TiffFileError)):
        reason = 'it is no image of a known format'
    elif isinstance(error, ValueError) and 'not supported' in str(error):  # tifffile's; Python 3.10 has an older one
        reason = f'{error} by the installed tifffile, and a newer one, of Python 3.11 or later, may read it'
    else:
        reason = f'it is damaged or cut off ({error})'
    return UserError(f'cannot read {name}: {reason}. Repair it or take it out of the folder.')


def write_photo(photo: Photo, path: str | os.PathLike[str]) -> None:
    """Write a photo with its alpha, ICC profile, EXIF block and resolution; the ending of ``path`` gives the format.

    JPEG is written at quality 95 without chroma subsampling. The write is atomic. Alpha keeps its kind in a TIFF; for
    other formats, associated alpha is divided out of the pixels.

    Raises:
        UserError: the format does not support the photo (16 bits in a JPEG, say), or the file cannot be written.
    """
    path = Path(path)
    check_writable(photo, path)
    suffix = path.suffix.lower()
    try:
        content = tiff.encode_tiff(photo) if suffix in _TIFF else pillow_formats.encode(photo.unassociated(), suffix)
    except Exception as error:  # encoders raise anything too: an EXIF block that is too long for a JPEG, say
        raise UserError(f'cannot write {path}: {suffix} does not support it ({error}); choose .png or .tif') from error
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def check_writable(photo: Photo | PhotoHeader, path: Path) -> None:
    """Raise UserError if the format of ``path`` does not support the photo."""
    header = photo.header if isinstance(photo, Photo) else photo
    suffix = path.suffix.lower()
    if suffix not in EXTENSIONS:
        raise UserError(f'cannot write {path}: unknown format {suffix!r}; known: {", ".join(EXTENSIONS)}')
    if header.is_16_bit and suffix not in ('.png', *_TIFF):
        raise UserError(f'cannot write {path}: {suffix} has no 16 bits a sample; choose .png or .tif')
    if header.has_alpha and suffix in ('.jpg', '.jpeg', '.bmp'):
        raise UserError(f'cannot write {path}: {suffix} has no alpha channel; choose .png or .tif')
    if header.is_grey and suffix == '.webp':  # Pillow would write three channels
        raise UserError(f'cannot write {path}: {suffix} has no grey; choose .png or .tif')
    limits = {'.jpg': 65535, '.jpeg': 65535, '.webp': 16383}
    most = limits.get(suffix)
    if most is not None and max(header.height, header.width) > most:
        raise UserError(f'cannot write {path}: {suffix} has at most {most} pixels a side; choose .png or .tif')
