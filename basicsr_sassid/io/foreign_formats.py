"""Unsupported files (RAW photographs, videos, other formats) and how to convert them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from basicsr_sassid.utils.errors import UserError

_RAW = (
    '.3fr',
    '.arw',
    '.cr2',
    '.cr3',
    '.crw',
    '.dng',
    '.erf',
    '.fff',
    '.iiq',
    '.kdc',
    '.mef',
    '.mos',
    '.mrw',
    '.nef',
    '.nrw',
    '.orf',
    '.pef',
    '.raf',
    '.raw',
    '.rw2',
    '.rwl',
    '.sr2',
    '.srf',
    '.srw',
    '.x3f',
)
_VIDEO = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpg', '.mts', '.webm', '.wmv')
_OTHER = ('.avif', '.exr', '.gif', '.heic', '.heif', '.hdr', '.jp2', '.jxl', '.psd', '.xcf')


def list_foreign(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The unsupported image and video files below ``folder``, each with how to convert it."""
    files = (path for path in Path(folder).rglob('*') if path.is_file() and not path.name.startswith('.'))
    return {str(path): hint for path in sorted(files) if (hint := conversion_hint(path))}


def conversion_hint(path: Path) -> str | None:
    """How to convert a file of an unsupported format; None for any other file."""
    suffix = path.suffix.lower()
    if suffix in _RAW:
        return (
            f'{path} is a RAW file. Develop it to a 16-bit TIFF first, without noise reduction (darktable-cli '
            f'{shlex.quote(path.name)} {shlex.quote(path.stem)}.tif).'
        )
    if suffix in _VIDEO:
        return f'{path} is a video. Give its frames (ffmpeg -i {shlex.quote(path.name)} frames/%05d.png).'
    if suffix in _OTHER:
        return (
            f'{path} is of a format that is not read here. Convert it to PNG or TIFF (magick '
            f'{shlex.quote(path.name)} {shlex.quote(path.stem)}.png).'
        )
    return None


def refuse_foreign(path: str | os.PathLike[str]) -> None:
    """Raise UserError for an unsupported format. A RAW file can look like a TIFF: its thumbnail would be read."""
    hint = conversion_hint(Path(path))
    if hint:
        raise UserError(hint)
