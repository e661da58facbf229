"""``meta_info.txt`` of an LMDB in BasicSR's format: the keys of its images and their sizes."""

from __future__ import annotations

import re
from pathlib import Path

from basicsr_sassid.io.lmdb_environments import first_missing_key
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.names import stays_inside

_LINE = re.compile(r'(?P<file>.+) \((?P<h>\d{1,9}),(?P<w>\d{1,9}),(?P<c>\d)\) (?P<compress>\d+)')
_AGAIN = 'Write the LMDB again with: sassid prepare folder'


def read_lmdb_meta(root: Path, root_key: str = 'dataroot_lq') -> tuple[list[str], list[tuple[int, int]]]:
    """(keys, (height, width) of each image) of an LMDB.

    Args:
        root: folder of the LMDB.
        root_key: option that names it, for the error of an LMDB without an image.

    Raises:
        UserError: it is no LMDB in BasicSR's format, a line is malformed, a key would lead out of a folder when results
            are named by it, or ``data.mdb`` is damaged or lacks a key.
    """
    meta = root / 'meta_info.txt'
    if root.suffix != '.lmdb' or not meta.is_file() or not (root / 'data.mdb').is_file():
        raise UserError(
            f"{root} is no LMDB in BasicSR's format (a folder *.lmdb with data.mdb "
            'and meta_info.txt). Write one with: sassid prepare folder PHOTOS -o NAME.lmdb'
        )
    try:
        lines = meta.read_bytes().decode('utf-8').splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f'{meta} is no text in UTF-8 (byte {error.start}). {_AGAIN}') from error
    except OSError as error:
        raise UserError(f'cannot read {meta}: {error.strerror or error}.') from error
    keys: list[str] = []
    sizes: list[tuple[int, int]] = []
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise UserError(
                f'{meta}, line {number}: expected "name.png (height,width,channels) compression", '
                f'found {line[:200]!r}. {_AGAIN}'
            )
        if not stays_inside(match['file']) or not match['file'].isprintable() or match['file'].startswith('.'):
            raise UserError(
                f'{meta}, line {number}: expected a name without .., a leading / or control characters, '
                f'found {match["file"][:200]!r}. {_AGAIN}'
            )
        keys.append(match['file'].split('.')[0])  # BasicSR's rule: the key ends at the first dot
        sizes.append((int(match['h']), int(match['w'])))
    if not keys:
        raise UserError(f'{root_key}: {meta} names no image')
    missing = first_missing_key(root, keys)
    if missing is not None:
        raise UserError(f'{root}: meta_info.txt names {missing!r}, data.mdb does not hold it. {_AGAIN}')
    return keys, sizes
