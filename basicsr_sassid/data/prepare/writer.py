"""Writer of all sources: sub-images into an LMDB in BasicSR's format. A stopped run continues where it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from mmengine.utils import ProgressBar

from basicsr_sassid.data.prepare.cutting import COMPRESSION, SubImage, check_cutting, cut, starts
from basicsr_sassid.io.atomic import atomic_write, json_digest
from basicsr_sassid.io.lmdb_file import DamagedLMDBError, check_whole
from basicsr_sassid.utils.errors import UserError, expand_path

_PLAN, _DONE = b'__plan__', b'__done_%06d__'  # keys from which a stopped run continues; meta_info.txt lacks them


@dataclasses.dataclass
class Prepared:
    """Counts of what was written, and the files that were skipped, with the reason."""

    photos: int
    sub_images: int
    skipped: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Source:
    """One image to be cut up.

    Attributes:
        name: of the file, for messages.
        key: beginning of the sub-images' keys; noisy and clean images of a pair have the same.
        read: returns (H, W, C), uint8 or uint16, C = 1 (grey) or 3 (RGB). Raises UserError.
        size: (H, W), as far as it is known.
        stamp: changes when the file does, say its size and time.
    """

    name: str
    key: str
    read: Callable[[], np.ndarray]
    size: tuple[int, int]
    stamp: Any = None


@dataclasses.dataclass(frozen=True)
class Written:
    """An image in the LMDB: (key, shape) of each sub-image."""

    sub_images: list[tuple[str, Sequence[int]]]


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    reason: str


Result = Written | Skipped


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which images are cut, and how.

    Attributes:
        sources: the images, in the order of the LMDB.
        size: side of a sub-image in pixels; 0: each image is one.
        step: distance between neighbours in pixels.
    """

    sources: Sequence[Source]
    size: int
    step: int

    def digest(self) -> bytes:
        """SHA-256; a stopped run continues under the same one alone."""
        content = [
            self.size,
            self.step,
            [(source.name, source.key, source.size, source.stamp) for source in self.sources],
        ]
        return bytes.fromhex(json_digest(content, 64))

    def encode(self, number: int) -> list[SubImage] | Skipped:
        """Read, cut and encode image ``number``."""
        source = self.sources[number]
        try:
            return list(cut(source.read(), source.key, self.size, self.step))
        except UserError as error:
            return Skipped(str(error))


def write_lmdb(
    sources: Sequence[Source],
    lmdb_path: str | os.PathLike[str],
    size: int = 0,
    step: int | None = None,
    strict: bool = True,
    workers: int | None = None,
    quiet: bool = False,
) -> Prepared:
    """Cut images into sub-images and write them to an LMDB that BasicSR's datasets read.

    Args:
        sources: the images, in the order of the LMDB.
        lmdb_path: LMDB to write, ``*.lmdb``; must not exist. It is renamed to this name when it is complete; a stopped
            run continues after the last complete image.
        size: side of a sub-image in pixels; 0: each image is one. An image with a shorter side gives sub-images that
            short.
        step: distance between neighbours in pixels; by default ``size``: no overlap. The last of a row or column is
            moved in, so that every pixel is in one.
        strict: refuse an unreadable image instead of skipping it.
        workers: threads; by default one per core.
        quiet: no progress bar.

    Raises:
        UserError: the LMDB exists, no readable image, no space left, or strict and a damaged image.
    """
    check_cutting(size, step, workers, 0)
    lmdb_path = expand_path(lmdb_path, '-o')
    plan = Plan(sources, size, step or size)
    if lmdb_path.suffix != '.lmdb':
        raise UserError(f'-o: expected a name that ends in .lmdb, got {lmdb_path}')
    if lmdb_path.exists():
        raise UserError(f'{lmdb_path} exists. Choose another name, or remove it first.')
    keys: set[str] = set()
    for source in sources:
        if source.key in keys:
            raise UserError(f'{source.name}: another image has its name ({source.key}). Give one copy alone.')
        keys.add(source.key)
    partial = lmdb_path.with_name(f'.partial_{lmdb_path.name}')
    try:
        lmdb_path.parent.mkdir(parents=True, exist_ok=True)
        with _open(partial, plan.digest(), largest_size(plan)) as environment:
            results = _write_images(environment, plan, strict, workers or os.cpu_count() or 1, quiet)
        prepared = _write_meta(partial, plan, results)
        partial.rename(lmdb_path)
    except (OSError, lmdb.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f'cannot write {lmdb_path}: {error}. Free some space, or choose another folder.') from error
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return prepared


def _write_images(
    environment: lmdb.Environment, plan: Plan, strict: bool, workers: int, quiet: bool
) -> dict[int, Result]:
    """Write what a stopped run has left; image number -> result. Raises UserError if strict and one is damaged."""
    bar = ProgressBar(len(plan.sources), file=io.StringIO() if quiet else sys.stdout)
    results = _earlier_results(environment, len(plan.sources))
    for _ in results:
        bar.update()
    remaining = [number for number in range(len(plan.sources)) if number not in results]
    with contextlib.closing(_encode_batches(plan, remaining, workers)) as batches:
        for number, encoded in batches:
            if isinstance(encoded, Skipped) and strict:
                raise UserError(encoded.reason)
            results[number] = _commit(environment, number, encoded)
            bar.update()
    bar.file.write('\n')  # ends the bar's line
    bar.file.flush()
    return results


def _encode_batches(
    plan: Plan, numbers: Sequence[int], workers: int
) -> Generator[tuple[int, list[SubImage] | Skipped], None, None]:
    """Encode images in threads: decoders and encoders release the interpreter's lock, a fork can hang after OpenCV.

    In batches, since ``imap`` alone would encode ahead of a slow disk without bound.
    """
    batches = [numbers[first : first + 8 * workers] for first in range(0, len(numbers), 8 * workers)]
    with ThreadPool(max(min(workers, len(numbers)), 1)) as pool:
        yield from zip(numbers, chain.from_iterable(pool.imap(plan.encode, batch) for batch in batches))


def _commit(environment: lmdb.Environment, number: int, encoded: list[SubImage] | Skipped) -> Result:
    """Write one image and its record in one transaction."""
    sub_images = [] if isinstance(encoded, Skipped) else encoded
    result = encoded if isinstance(encoded, Skipped) else Written([(part.key, part.shape) for part in encoded])
    with environment.begin(write=True) as transaction:
        for part in sub_images:
            transaction.put(part.key.encode('ascii'), part.png)
        transaction.put(
            _DONE % number, json.dumps(result.reason if isinstance(result, Skipped) else result.sub_images).encode()
        )
    return result


def _earlier_results(environment: lmdb.Environment, count: int) -> dict[int, Result]:
    """The records of a stopped run: a text for a skipped image, a list for a written one."""
    results: dict[int, Result] = {}
    with environment.begin() as transaction:
        for number in range(count):
            record = transaction.get(_DONE % number)
            if record is not None:
                content = json.loads(record)
                results[number] = Skipped(content) if isinstance(content, str) else Written(content)
    return results


def _write_meta(folder: Path, plan: Plan, results: Mapping[int, Result]) -> Prepared:
    """Write ``meta_info.txt``. Raises UserError if no image could be read."""
    prepared, lines = Prepared(0, 0, {}), list[str]()
    for number, source in enumerate(plan.sources):
        result = results[number]
        if isinstance(result, Skipped):
            prepared.skipped[source.name] = result.reason
            continue
        prepared.photos += 1
        lines += [f'{key}.png ({shape[0]},{shape[1]},{shape[2]}) {COMPRESSION}\n' for key, shape in result.sub_images]
    prepared.sub_images = len(lines)
    if not lines:
        raise UserError('none of the images could be read. First: ' + next(iter(prepared.skipped.values())))
    with atomic_write(folder / 'meta_info.txt') as path:
        path.write_text(''.join(sorted(lines)))
    return prepared


def _open(folder: Path, digest: bytes, map_size: int) -> lmdb.Environment:
    """The LMDB of a stopped run with the same plan, or a new one; a damaged one is written anew."""
    try:
        if (folder / 'data.mdb').exists():
            check_whole(folder)
    except DamagedLMDBError as error:
        print(f'{error} It is of a stopped run, and is written anew.', file=sys.stderr, flush=True)
        shutil.rmtree(folder)
    for _ in range(2):
        environment = lmdb.open(os.fsencode(folder), map_size=map_size)  # a string need not be UTF-8
        with environment.begin(write=True) as transaction:
            stored = transaction.get(_PLAN)
            if stored is None and transaction.stat()['entries'] == 0:
                transaction.put(_PLAN, digest)
                stored = digest
        if stored == digest:
            return environment
        environment.close()  # of other images or sizes
        shutil.rmtree(folder)
    raise OSError(f'{folder} cannot be replaced')


def largest_size(plan: Plan) -> int:
    """Upper bound of the LMDB's bytes: all sub-images raw, at 16 bits RGB, and what LMDB adds."""
    total = 0
    for source in plan.sources:
        height, width = source.size
        count = len(starts(height, plan.size, plan.step)) * len(starts(width, plan.size, plan.step))
        total += count * (min(plan.size or height, height) * min(plan.size or width, width) * 6 + 16384)
    return 2 * total + 2**24


def key_of(name: str) -> str:
    """``name`` as a key of BasicSR: ASCII, no dot."""
    return re.sub(r'[^A-Za-z0-9_-]', '_', name)[:100]
