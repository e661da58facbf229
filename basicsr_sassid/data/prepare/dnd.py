"""DND (Ploetz and Roth, CVPR 2017): fifty noisy photographs, twenty boxes of each, no clean references."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr_sassid.data.prepare.pairs import check_count, find_files, write_all
from basicsr_sassid.data.prepare.writer import Prepared, Source, check_cutting
from basicsr_sassid.io.mat import open_mat73
from basicsr_sassid.utils.errors import UserError

IMAGES, BOXES, SIDE = 50, 20, 512


def prepare_dnd(
    downloaded: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    size: int = 512,
    incomplete: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Prepared | None]:
    """Write the noisy photographs of DND as ``DND/noisy.lmdb``: sub-images of 8 bits, to train on.

    A submission needs the unrounded photographs, which :func:`submit_dnd` reads from the download.

    Args:
        downloaded: the folder with ``info.mat`` and ``images_srgb/0001.mat`` to ``0050.mat``.
        output, size, incomplete: see :func:`prepare_sidd`.

    Raises:
        UserError: a file is missing or damaged, a box lies outside its photograph.
    """
    check_cutting(size, None, workers)

    def sources() -> list[Source]:
        photos = find_photos(downloaded, incomplete)
        boxes = read_boxes(downloaded, incomplete)
        result: list[Source] = []
        for number, path in photos.items():
            size = photo_size(path)
            checked_boxes(path, number, size, boxes)
            result.append(
                Source(str(path), f'{number:04d}', functools.partial(_rounded, path), size, path.stat().st_size)
            )
        return result

    return write_all({'DND/noisy.lmdb': sources}, output, size, workers, quiet)


def find_photos(downloaded: Sequence[str | os.PathLike[str]], incomplete: bool = False) -> dict[int, Path]:
    """Photograph number, from 1, -> file. Raises UserError if some are missing."""
    files = {
        int(path.stem): path for path in find_files(downloaded, r'\d{4}\.mat') if path.parent.name == 'images_srgb'
    }
    check_count(len(files), IMAGES, 'DND, images_srgb/*.mat', incomplete)
    return files


def read_boxes(downloaded: Sequence[str | os.PathLike[str]], incomplete: bool = False) -> list[list[tuple[int, ...]]]:
    """For each photograph its boxes as (top, bottom, left, right), the end exclusive, from 0."""
    path = next(iter(find_files(downloaded, r'info\.mat')), None)
    if path is None:
        raise UserError(f'prepare dnd: no info.mat in {", ".join(map(str, downloaded))} or below')
    with open_mat73(path) as file:
        references = np.array(file['info']['boundingboxes']).ravel()
        tables = [np.array(file[reference]).T for reference in references]  # MATLAB's (20, 4), from 1, end inclusive
    if len(tables) != IMAGES and not incomplete:
        raise UserError(f'{path}: expected the boxes of {IMAGES} photographs, got {len(tables)}. Download it again.')
    for table in tables:
        if table.ndim != 2 or table.shape[1] != 4 or (len(table) != BOXES and not incomplete):
            raise UserError(f'{path}: expected {BOXES} boxes of four numbers for each image, got {table.shape}')
    return [
        [(int(top) - 1, int(bottom), int(left) - 1, int(right)) for top, left, bottom, right in table]
        for table in tables
    ]


def checked_boxes(
    path: Path, number: int, size: Sequence[int], boxes: list[list[tuple[int, ...]]]
) -> list[tuple[int, ...]]:
    """The boxes of photograph ``number``, from 1. Raises UserError if there are none, or one lies outside."""
    if not 1 <= number <= len(boxes):
        raise UserError(f'{path}: info.mat has the boxes of {len(boxes)} photographs. Download both again.')
    for top, bottom, left, right in boxes[number - 1]:
        if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
            raise UserError(
                f'{path}: {size[0]}x{size[1]} pixels, but info.mat has a box at rows {top} to {bottom}, '
                f'columns {left} to {right}. Download both again.'
            )
    return boxes[number - 1]


def photo_size(path: Path) -> tuple[int, int]:
    """(height, width) of a photograph. Raises UserError if it is not RGB."""
    with open_mat73(path) as file:
        shape = file['InoisySRGB'].shape
    if len(shape) != 3 or shape[0] != 3:
        raise UserError(f'{path}: expected an RGB image, got {shape[::-1]}. Download it again.')
    return shape[2], shape[1]


def read_photo_floats(path: Path) -> np.ndarray:
    """A photograph: (H, W, 3) float32 in [0, 1]."""
    with open_mat73(path) as file:
        return np.ascontiguousarray(np.array(file['InoisySRGB'], np.float32).T)


def _rounded(path: Path) -> np.ndarray:
    return (read_photo_floats(path).clip(0, 1) * 255).round().astype(np.uint8)
