"""A folder of photographs -> one LMDB of sub-images, which crops are cut from quickly."""
from __future__ import annotations

import dataclasses
import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

import cv2
import lmdb
import mmcv
import numpy as np
from basicsr.utils.lmdb_util import LmdbMaker
from mmengine.utils import ProgressBar

from basicsr_sassid._checks import UserError, existing
from basicsr_sassid.data.image_util import image_size, list_images, read_photo

_COMPRESSION = 1  # PNG level: larger files, but read twice as fast as BasicSR's default of 3


@dataclasses.dataclass
class Prepared:
    """What :func:`prepare_folder` wrote and what it left out (file -> reason)."""
    photos: int
    sub_images: int
    skipped: dict[str, str]


def prepare_folder(photos: Sequence[str | os.PathLike], lmdb_path: str | os.PathLike, size: int = 512,
                   step: int | None = None, strict: bool = False, workers: int | None = None,
                   quiet: bool = False) -> Prepared:
    """Cut photographs into squares and write them to an LMDB that BasicSR's datasets and NoisyImageDataset read.

    Args:
        photos: image files and folders (searched below).
        lmdb_path: to be written, ``*.lmdb``; must not exist. It appears when it is whole, not before.
        size: side of a sub-image in pixels. A photograph with a shorter side gives sub-images that short.
        step: distance between neighbours; by default ``size``: no overlap. The last of a row or column is moved in,
            so that every pixel is in one.
        strict: refuse an unreadable image, in place of naming and skipping it.
        workers: threads; by default one a core.
        quiet: no progress bar.

    Grey stays grey, 16 bits stay 16 bits, alpha is left out.

    Raises:
        UserError: nothing there, no readable image, the LMDB exists, no space left, or strict and a damaged image.
    """
    lmdb_path = Path(lmdb_path).expanduser()
    step = step or size
    if lmdb_path.suffix != '.lmdb':
        raise UserError(f'-o: expected a name that ends in .lmdb, got {lmdb_path}')
    if lmdb_path.exists():
        raise UserError(f'{lmdb_path} exists. Choose another name, or remove it first.')
    if size < 1 or step < 1:
        raise UserError(f'size and step: expected numbers of pixels >= 1, got {size} and {step}')
    files = _files_of(photos)
    partial = lmdb_path.with_name(f'.partial_{lmdb_path.name}')
    try:
        lmdb_path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        result = _write(files, partial, functools.partial(_cut, size=size, step=step), strict,
                        _largest_size(files, size, step), workers or os.cpu_count() or 1, quiet)
        partial.rename(lmdb_path)
    except (OSError, lmdb.Error) as error:
        raise UserError(f'cannot write {lmdb_path}: {error}. Free some space, or choose another folder.') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def _files_of(photos: Sequence[str | os.PathLike]) -> list[Path]:
    files: list[Path] = []
    for photo in photos:
        path = existing(photo, 'photos')
        found = list_images(path) if path.is_dir() else [path]
        if not found:
            raise UserError(f'photos: no image in {path} or below')
        files += found
    return files


def _largest_size(files: list[Path], size: int, step: int) -> int:
    """Bytes that the LMDB cannot exceed: all sub-images raw, at 16 bits RGB, and what LMDB adds."""
    total = 0
    for file in files:
        try:
            height, width = image_size(file)
        except UserError:
            continue  # named when it is read
        corners = [_starts(side, size, step) for side in (height, width)]
        total += len(corners[0]) * len(corners[1]) * (min(size, height) * min(size, width) * 6 + 16384)
    return 2 * total + 2 ** 24


def _write(files: list[Path], partial: Path, cut: functools.partial, strict: bool, map_size: int, workers: int,
           quiet: bool) -> Prepared:
    result = Prepared(photos=0, sub_images=0, skipped={})
    bar = ProgressBar(len(files), file=io.StringIO() if quiet else sys.stdout)
    maker = LmdbMaker(str(partial), map_size=map_size, compress_level=_COMPRESSION)
    try:
        # threads: decoders and encoders let go of the interpreter's lock, and a fork can hang once OpenCV has run;
        # ProgressBar and not track_parallel_progress, which would hold every sub-image in memory
        with ThreadPool(min(workers, len(files))) as pool:
            for file, pieces in zip(files, pool.imap(cut, enumerate(files))):
                if isinstance(pieces, str):
                    if strict:
                        raise UserError(f'{pieces} (--strict)')
                    result.skipped[str(file)] = pieces
                else:
                    result.photos += 1
                    for key, content, shape in pieces:
                        maker.put(content, key, shape)
                        result.sub_images += 1
                bar.update()
    finally:
        maker.close()
        bar.file.write('\n')  # ends the bar's line
        bar.file.flush()
    if not result.sub_images:
        raise UserError('none of the images could be read. First: ' + next(iter(result.skipped.values())))
    return result


def _cut(numbered: tuple[int, Path], size: int, step: int) -> list[tuple[str, bytes, tuple[int, int, int]]] | str:
    """The sub-images of one file as (key, PNG, shape), or the reason why there are none."""
    number, file = numbered
    try:
        pixels = read_photo(file).pixels
    except UserError as error:
        return str(error)
    height, width = pixels.shape[:2]
    stem = re.sub(r'[^A-Za-z0-9_-]', '_', file.stem)[:100]  # BasicSR's keys: ASCII, no dot
    pieces = []
    for top in _starts(height, size, step):
        for left in _starts(width, size, step):
            piece = mmcv.imcrop(pixels, np.array([left, top, min(left + size, width) - 1, min(top + size, height) - 1]))
            piece = mmcv.rgb2bgr(piece) if piece.shape[2] == 3 else piece
            _, content = cv2.imencode('.png', piece, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
            pieces.append((f'{number:06d}_{stem}_y{top:05d}_x{left:05d}', content.tobytes(), piece.shape))
    return pieces


def _starts(side: int, size: int, step: int) -> list[int]:
    last = max(side - size, 0)
    return sorted({*range(0, last + 1, step), last})
