"""SIDD (Abdelhamed et al., CVPR 2018): the tree of SIDD-Medium and the blocks of validation and benchmark."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from basicsr_sassid.data.prepare.folder import photo_source
from basicsr_sassid.data.prepare.pairs import check_count, find_files, write_all
from basicsr_sassid.data.prepare.writer import Prepared, Source, check_cutting, key_of
from basicsr_sassid.io.mat import read_mat
from basicsr_sassid.utils.errors import UserError

MEDIUM = 320  # photographs
BLOCKS = 40, 32, 256, 256, 3  # images, blocks of each, height, width, RGB
_MATS = {
    'SIDD_val/noisy.lmdb': 'ValidationNoisyBlocksSrgb',
    'SIDD_val/clean.lmdb': 'ValidationGtBlocksSrgb',
    'SIDD_benchmark/noisy.lmdb': 'BenchmarkNoisyBlocksSrgb',
}


def prepare_sidd(
    downloaded: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    size: int = 512,
    incomplete: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Prepared | None]:
    """Write the downloaded parts of SIDD as LMDBs.

    Args:
        downloaded: folders (searched below) and files: the tree with ``*_NOISY_SRGB_*.PNG`` and ``*_GT_SRGB_*.PNG``,
            ``ValidationNoisyBlocksSrgb.mat``, ``ValidationGtBlocksSrgb.mat``, ``BenchmarkNoisyBlocksSrgb.mat``.
        output: folder for ``SIDD_Medium/{noisy,clean}.lmdb`` (sub-images), ``SIDD_val/{noisy,clean}.lmdb`` and
            ``SIDD_benchmark/noisy.lmdb`` (blocks). Existing ones are kept.
        size: side of SIDD-Medium's sub-images.
        incomplete: take fewer images than were published.

    Returns:
        LMDB -> what was written; None where it existed.

    Raises:
        UserError: none of the files exists, a count or size that is not as published, a damaged file.
    """
    check_cutting(size, None, workers)
    layout: dict[str, Callable[[], list[Source]]] = {}
    photos = {
        side: find_files(downloaded, rf'.*_{name}_SRGB_.*\.PNG') for side, name in (('noisy', 'NOISY'), ('clean', 'GT'))
    }
    for side, files in photos.items():
        if files:
            check_count(len(files), MEDIUM, f'SIDD-Medium, {side} photographs', incomplete)
            layout[f'SIDD_Medium/{side}.lmdb'] = functools.partial(_photo_sources, files)
    for name, variable in _MATS.items():
        for path in find_files(downloaded, rf'{variable}\.mat')[:1]:
            layout[name] = functools.partial(_block_sources, path, variable, incomplete)
    if not layout:
        raise UserError(
            f'prepare sidd: in {", ".join(map(str, downloaded))} there is neither *_NOISY_SRGB_*.PNG nor '
            f'{", ".join(f"{variable}.mat" for variable in _MATS.values())}'
        )
    keys = {side: {_photo_key(file) for file in files} for side, files in photos.items()}
    if all(photos.values()) and keys['noisy'] != keys['clean']:
        raise UserError(
            f'SIDD-Medium: {len(keys["noisy"])} noisy and {len(keys["clean"])} clean photographs, and '
            f'{min(keys["noisy"] ^ keys["clean"])} is on one side alone. Download the rest, or take the '
            'clean ones away: training needs none.'
        )
    return write_all(layout, output, {f'SIDD_Medium/{side}.lmdb': size for side in photos}, workers, quiet)


def read_blocks(path: str | os.PathLike[str], variable: str, incomplete: bool = False) -> np.ndarray:
    """(images, blocks, 256, 256, 3) uint8. Raises UserError for another shape than the published one."""
    blocks = read_mat(path, variable)
    shape_fits = blocks.shape == BLOCKS or (incomplete and blocks.ndim == 5 and blocks.shape[2:] == BLOCKS[2:])
    if blocks.dtype != np.uint8 or not shape_fits:
        raise UserError(
            f'{path}: expected {BLOCKS} uint8, got {blocks.shape} {blocks.dtype}. Download it again'
            + (', or give --incomplete.' if blocks.dtype == np.uint8 and blocks.ndim == 5 else '.')
        )
    return blocks


def _block_sources(path: Path, variable: str, incomplete: bool) -> list[Source]:
    blocks = read_blocks(path, variable, incomplete)
    stat = path.stat()
    return [
        Source(
            f'{path}, image {image + 1}, block {block + 1}',
            f'{image:02d}_{block:02d}',
            functools.partial(blocks.__getitem__, (image, block)),
            blocks.shape[2:4],
            (stat.st_size, stat.st_mtime_ns),
        )
        for image in range(blocks.shape[0])
        for block in range(blocks.shape[1])
    ]


def _photo_sources(files: list[Path]) -> list[Source]:
    return [photo_source(file, _photo_key(file)) for file in files]


def _photo_key(file: Path) -> str:
    """Key of the scene's folder and the number of the shot: the same for noisy and clean photographs."""
    return key_of(f'{file.parent.name}_{file.stem.split("_")[-1]}')
