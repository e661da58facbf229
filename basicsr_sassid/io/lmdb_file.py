"""Whether an LMDB file is whole, found before it is mapped: a read beyond the end of a mapped file kills the process.

The layout is that of LMDB 0.9 on 64-bit machines, in the machine's byte order. ``last_pg`` of the header alone does
not decide: a transaction leaves pages at the end unwritten that it allocated and freed, so a sound file may be shorter.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from basicsr_sassid.utils.errors import UserError

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16  # bytes of a page's header: number u64, pad u16, flags u16, lower u16, upper u16
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x08  # flags of a page
_BIG_DATA, _SUB_DATABASE = 0x01, 0x02  # flags of a leaf's node
_NO_PAGE = 2**64 - 1  # root of an empty tree


class DamagedLMDBError(UserError):
    """An LMDB is cut short, overwritten, or no LMDB."""


def check_whole(folder: str | os.PathLike[str]) -> None:
    """Check that ``data.mdb`` of an LMDB holds all pages that its trees reach.

    Raises:
        DamagedLMDBError: it does not, or it is no LMDB.
        OSError: it cannot be read.
    """
    path = Path(folder) / 'data.mdb'
    with open(path, 'rb') as file:
        size = path.stat().st_size
        try:
            page_size, last_page, roots = _newest_meta(file)
            if size < (last_page + 1) * page_size:
                for end in _reached_ends(file, page_size, roots):
                    if end * page_size > size:
                        raise ValueError(f'page {end - 1} is missing')
        except (ValueError, struct.error) as error:
            raise DamagedLMDBError(
                f'{path} is no LMDB, or damaged (cut short?): {size:,} bytes. Copy it again, or write it again with: '
                'sassid prepare'
            ) from error


def _newest_meta(file: BinaryIO) -> tuple[int, int, list[int]]:
    """(bytes of a page, number of the last page, roots of the trees) from the two meta pages."""
    metas: list[tuple[int, int, list[int]]] = []
    page_size = 0
    for offset in (0, 1):
        content = _read(file, offset * page_size, 152)
        (flags,) = struct.unpack_from('=10xH', content)
        magic, version = struct.unpack_from('=II', content, _HEADER)
        (page_size,) = struct.unpack_from('=I', content, 40)
        if (magic, version) != (_MAGIC, _VERSION) or not flags & _META or page_size not in {2**n for n in range(9, 17)}:
            raise ValueError('no meta page')
        roots = [struct.unpack_from('=Q', content, 40 + 48 * tree + 40)[0] for tree in (0, 1)]  # free pages, data
        last_page, transaction = struct.unpack_from('=QQ', content, 136)
        metas.append((transaction, last_page, roots))
    _, last_page, roots = max(metas)
    return page_size, last_page, roots


def _reached_ends(file: BinaryIO, page_size: int, roots: list[int]) -> Iterator[int]:
    """The number after each page, or run of pages, that the trees reach."""
    pages, seen = [root for root in roots if root != _NO_PAGE], set[int]()
    while pages:
        number = pages.pop()
        if number in seen:
            raise ValueError('a page is reached twice')
        seen.add(number)
        yield number + 1
        content = _read(file, number * page_size, page_size)
        flags, lower = struct.unpack_from('=10xHH', content)
        if not flags & (_BRANCH | _LEAF):
            raise ValueError(f'page {number} is of no tree')
        for (offset,) in struct.iter_unpack('=H', content[_HEADER:lower]):
            low, high, node_flags, key_size = struct.unpack_from('=HHHH', content, offset)
            if flags & _BRANCH:
                pages.append(low | high << 16 | node_flags << 32)
            elif node_flags & _BIG_DATA:  # in a run of pages of its own
                (first,) = struct.unpack_from('=Q', content, offset + 8 + key_size)
                yield first + (_HEADER - 1 + (low | high << 16)) // page_size + 1
            elif node_flags & _SUB_DATABASE:
                (root,) = struct.unpack_from('=Q', content, offset + 8 + key_size + 40)
                pages += [root] if root != _NO_PAGE else []


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    content = file.read(length)
    if len(content) < length:
        raise ValueError('the file ends before')
    return content
