"""LMDB environments, each opened once per process: lmdb >= 2 refuses to open one twice.

Paths are handed over as bytes: lmdb encodes a string as UTF-8, which not every name is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable
from typing import Any

import lmdb

from basicsr_sassid.io.lmdb_file import DamagedLMDBError, check_whole

_MAX_KEY = 511  # bytes, LMDB's
_shared: dict[tuple[str, int], lmdb.Environment] = {}  # an open file keeps its inode: no other file gets the same key


def open_shared(path: str | os.PathLike[str], **settings: Any) -> lmdb.Environment:
    """The process's read-only environment of ``path``, opened on first use. A forked worker inherits the memory map.

    Args:
        path: folder that contains ``data.mdb``.
        settings: keywords of ``lmdb.open``, used on first use alone.

    Raises:
        OSError: the file is missing.
        DamagedLMDBError: it is no LMDB, or cut short.
    """
    key = _key(path)
    if key not in _shared:
        check_whole(path)
        try:
            defaults = {'readonly': True, 'lock': False, 'readahead': False}
            _shared[key] = lmdb.open(os.fsencode(path), **{**defaults, **settings})
        except lmdb.Error as error:
            raise DamagedLMDBError(f'{path} cannot be opened as an LMDB: {error}. Copy or write it again.') from error
    return _shared[key]


@contextlib.contextmanager
def open_for_writing(path: str | os.PathLike[str], map_size: int) -> Generator[lmdb.Environment, None, None]:
    """An environment to write to, created where there is none; the process's read-only one is closed before.

    Raises:
        OSError, lmdb.Error: it cannot be opened.
        DamagedLMDBError: the existing one is cut short.
    """
    with contextlib.suppress(FileNotFoundError):
        shared = _shared.pop(_key(path), None)
        if shared is not None:
            shared.close()
        check_whole(path)
    with lmdb.open(os.fsencode(path), map_size=map_size) as environment:
        yield environment


def first_missing_key(path: str | os.PathLike[str], keys: Iterable[str]) -> str | None:
    """The first key that an LMDB does not hold; None if it holds all. Raises as :func:`open_shared` does."""
    try:
        with open_shared(path).begin(buffers=True) as transaction, transaction.cursor() as cursor:
            for key in keys:
                encoded = key.encode()
                if not 0 < len(encoded) <= _MAX_KEY or not cursor.set_key(encoded):
                    return key
    except lmdb.Error as error:
        raise DamagedLMDBError(f'{path} is damaged: {error}. Copy or write it again.') from error
    return None


def _key(path: str | os.PathLike[str]) -> tuple[str, int]:
    return os.path.realpath(path), os.stat(os.path.join(path, 'data.mdb')).st_ino
