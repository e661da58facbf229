"""LMDB environments, each opened once per process: lmdb >= 2 refuses to open one twice.

Paths are handed over as bytes: lmdb encodes a string as UTF-8, which not every name is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Any

import lmdb

_shared: dict[tuple[str, int], lmdb.Environment] = {}  # an open file keeps its inode: no other file gets the same key


def open_shared(path: str | os.PathLike[str], **settings: Any) -> lmdb.Environment:
    """The process's read-only environment of ``path``, opened on first use. A forked worker inherits the memory map.

    Args:
        path: folder that contains ``data.mdb``.
        settings: keywords of ``lmdb.open``, used on first use alone.

    Raises:
        OSError, lmdb.Error: the file is missing or no LMDB.
    """
    key = _key(path)
    if key not in _shared:
        _shared[key] = lmdb.open(os.fsencode(path), **{'readonly': True, 'lock': False, 'readahead': False, **settings})
    return _shared[key]


@contextlib.contextmanager
def open_for_writing(path: str | os.PathLike[str], map_size: int) -> Generator[lmdb.Environment, None, None]:
    """An environment to write to, created where there is none; the process's read-only one is closed before.

    Raises:
        OSError, lmdb.Error: it cannot be opened.
    """
    with contextlib.suppress(FileNotFoundError):
        shared = _shared.pop(_key(path), None)
        if shared is not None:
            shared.close()
    with lmdb.open(os.fsencode(path), map_size=map_size) as environment:
        yield environment


def _key(path: str | os.PathLike[str]) -> tuple[str, int]:
    return os.path.realpath(path), os.stat(os.path.join(path, 'data.mdb')).st_ino
