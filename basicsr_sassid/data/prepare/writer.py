"""What every source shares: pieces of images into an LMDB of BasicSR's format, that a stopped run goes on with."""
from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import cv2
import lmdb
import mmcv
import numpy as np
from mmengine.utils import ProgressBar

from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.utils.errors import UserError

COMPRESSION = 1  # PNG level: larger files, but read twice as fast as BasicSR's default of 3
_PLAN, _DONE = b'__plan__', b'__done_%06d__'  # keys by which a stopped run goes on; meta_info.txt has them not

Piece = tuple[str, bytes, tuple[int, int, int]]  # key, PNG, shape


@dataclasses.dataclass
class Prepared:
    """What was written and what was left out (file -> reason)."""
    photos: int
    sub_images: int
    skipped: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Source:
    """One image to be cut up.

    Attributes:
        name: of the file, for messages.
        key: beginning of the sub-images' keys; noisy and clean images of a pair have the same.
        read: gives (H, W, C), uint8 or uint16, C = 1 (grey) or 3 (RGB). Raises UserError.
        size: (H, W), as far as it is known.
        stamp: what changes when the file does.
    """
    name: str
    key: str
    read: Callable[[], np.ndarray]
    size: tuple[int, int]
    stamp: Any = None


def write_lmdb(sources: Sequence[Source], lmdb_path: str | os.PathLike, size: int = 0, step: int | None = None,
               strict: bool = True, workers: int | None = None, quiet: bool = False) -> Prepared:
    """Cut images into squares and write them to an LMDB that BasicSR's datasets read.

    Args:
        sources: the images, in the order of the LMDB.
        lmdb_path: to be written, ``*.lmdb``; must not exist. It appears when it is whole; a run that was stopped goes
            on from the last image that was done.
        size: side of a sub-image in pixels; 0: each image whole. An image with a shorter side gives sub-images that
            short.
        step: distance between neighbours; by default ``size``: no overlap. The last of a row or column is moved in, so
            that every pixel is in one.
        strict: refuse an unreadable image, in place of naming and skipping it.
        workers: threads; by default one a core.
        quiet: no progress bar.

    Raises:
        UserError: the LMDB exists, no readable image, no space left, or strict and a damaged image.
    """
    lmdb_path = Path(lmdb_path).expanduser()
    step = step or size
    if lmdb_path.suffix != '.lmdb':
        raise UserError(f'-o: expected a name that ends in .lmdb, got {lmdb_path}')
    if lmdb_path.exists():
        raise UserError(f'{lmdb_path} exists. Choose another name, or remove it first.')
    if size < 0 or step < 0:
        raise UserError(f'size and step: expected numbers of pixels >= 1, got {size} and {step}')
    seen: set[str] = set()
    for source in sources:
        if source.key in seen:
            raise UserError(f'{source.name}: another image has its name ({source.key}). Give one copy alone.')
        seen.add(source.key)
    partial = lmdb_path.with_name(f'.partial_{lmdb_path.name}')
    plan = hashlib.sha256(json.dumps([size, step, [(source.name, source.key, source.size, source.stamp)
                                                   for source in sources]]).encode()).digest()
    try:
        lmdb_path.parent.mkdir(parents=True, exist_ok=True)
        result = _write(sources, partial, plan, size, step, strict, workers or os.cpu_count() or 1, quiet)
        partial.rename(lmdb_path)
    except (OSError, lmdb.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f'cannot write {lmdb_path}: {error}. Free some space, or choose another folder.') from error
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return result


def _write(sources: Sequence[Source], partial: Path, plan: bytes, size: int, step: int, strict: bool, workers: int,
           quiet: bool) -> Prepared:
    environment = _open(partial, plan, _largest_size(sources, size, step))
    bar = ProgressBar(len(sources), file=io.StringIO() if quiet else sys.stdout)

    def cut(number: int) -> list[Piece] | str:
        source = sources[number]
        try:
            return list(_cut(source.read(), source.key, size, step))
        except UserError as error:
            return str(error)

    with environment:
        done = _done(environment, len(sources))
        for _ in done:
            bar.update()
        left = [number for number in range(len(sources)) if number not in done]
        # threads: decoders and encoders let go of the interpreter's lock, and a fork can hang once OpenCV has run;
        # ProgressBar and not track_parallel_progress, which would hold every sub-image in memory; in rounds, as imap
        # alone would encode ahead of a slow disk without an end
        rounds = [left[first:first + 8 * workers] for first in range(0, len(left), 8 * workers)]
        with ThreadPool(max(min(workers, len(left)), 1)) as pool:
            for number, pieces in zip(left, chain.from_iterable(pool.imap(cut, some) for some in rounds)):
                if isinstance(pieces, str):
                    if strict:
                        raise UserError(pieces)
                    done[number] = pieces
                else:
                    done[number] = [(key, shape) for key, _, shape in pieces]
                with environment.begin(write=True) as transaction:  # an image, whole or not at all
                    for key, content, _ in pieces if not isinstance(pieces, str) else ():
                        transaction.put(key.encode('ascii'), content)
                    transaction.put(_DONE % number, json.dumps(done[number]).encode())
                bar.update()
        bar.file.write('\n')  # ends the bar's line
        bar.file.flush()
        result = Prepared(0, 0, {})
        lines = []
        for number in range(len(sources)):
            if isinstance(done[number], str):
                result.skipped[sources[number].name] = done[number]
                continue
            result.photos += 1
            lines += [f'{key}.png ({shape[0]},{shape[1]},{shape[2]}) {COMPRESSION}\n' for key, shape in done[number]]
        result.sub_images = len(lines)
        if not lines:
            raise UserError('none of the images could be read. First: ' + next(iter(result.skipped.values())))
        with atomic_write(partial / 'meta_info.txt') as text:
            text.write_text(''.join(sorted(lines)))
    return result


def _open(partial: Path, plan: bytes, map_size: int) -> lmdb.Environment:
    """The LMDB of a stopped run with the same plan, or a new one."""
    for _ in range(2):
        environment = lmdb.open(str(partial), map_size=map_size)
        with environment.begin(write=True) as transaction:
            found = transaction.get(_PLAN)
            if found is None and transaction.stat()['entries'] == 0:
                transaction.put(_PLAN, plan)
                found = plan
        if found == plan:
            return environment
        environment.close()  # of other images or sizes
        shutil.rmtree(partial)
    raise OSError(f'{partial} cannot be replaced')


def _done(environment: lmdb.Environment, count: int) -> dict[int, Any]:
    with environment.begin() as transaction:
        found = {number: transaction.get(_DONE % number) for number in range(count)}
    return {number: json.loads(value) for number, value in found.items() if value is not None}


def _largest_size(sources: Sequence[Source], size: int, step: int) -> int:
    """Bytes that the LMDB cannot exceed: all sub-images raw, at 16 bits RGB, and what LMDB adds."""
    total = 0
    for source in sources:
        height, width = source.size
        count = len(_starts(height, size, step)) * len(_starts(width, size, step))
        total += count * (min(size or height, height) * min(size or width, width) * 6 + 16384)
    return 2 * total + 2 ** 24


def key_of(name: str) -> str:
    """BasicSR's keys: ASCII, no dot."""
    return re.sub(r'[^A-Za-z0-9_-]', '_', name)[:100]


def _cut(pixels: np.ndarray, key: str, size: int, step: int) -> Iterator[Piece]:
    height, width = pixels.shape[:2]
    for top in _starts(height, size, step):
        for left in _starts(width, size, step):
            bottom, right = min(top + (size or height), height), min(left + (size or width), width)
            piece = mmcv.imcrop(pixels, np.array([left, top, right - 1, bottom - 1]))
            piece = mmcv.rgb2bgr(piece) if piece.shape[2] == 3 else piece
            _, content = cv2.imencode('.png', piece, [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
            yield f'{key}_y{top:05d}_x{left:05d}' if size else key, content.tobytes(), piece.shape


def _starts(side: int, size: int, step: int) -> list[int]:
    if not size:
        return [0]
    last = max(side - size, 0)
    return sorted({*range(0, last + 1, step), last})
