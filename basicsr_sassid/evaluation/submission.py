"""Submissions to the servers of SIDD and DND, and a check that reads them back."""

from __future__ import annotations

import base64
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from tqdm import tqdm

from basicsr_sassid.data.prepare.dnd import (
    BOXES,
    IMAGES,
    SIDE,
    checked_boxes,
    find_photos,
    read_boxes,
    read_photo_floats,
)
from basicsr_sassid.data.prepare.sidd import BLOCKS, read_blocks
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.io.atomic import atomic_write, content_digest, make_folder, write_json
from basicsr_sassid.io.mat import read_mat
from basicsr_sassid.utils.errors import UserError, expand_path, require_path

_SIDD_VARIABLE = 'DenoisedBlocksSrgb'
_MAX_MARGIN, _MULTIPLE = 80, 32  # context pixels around a box of DND, and the network's multiple_of
_ENDINGS = '.mat (the server that closed in 2023) or .csv (Kaggle)'


def submit_sidd(
    downloaded: str | os.PathLike,
    weights: str | os.PathLike,
    output: str | os.PathLike,
    self_ensemble: bool = False,
    device: str = 'auto',
    incomplete: bool = False,
    network: dict[str, Any] | None = None,
    about: dict[str, str] | None = None,
) -> None:
    """Denoise ``BenchmarkNoisyBlocksSrgb.mat`` and write a submission to the SIDD server.

    Args:
        downloaded: that file, or its folder.
        weights: a network for :class:`Denoiser`.
        output: ``SubmitSrgb.mat`` (the blocks, and seconds a megapixel), or ``.csv`` for the competition on Kaggle
            (the blocks in base64, a row each).
        self_ensemble: mean over the eight flips and turns, of floats, before rounding: the authors' submission had it.
        device, network: see :class:`Denoiser`.
        incomplete: take fewer images than were published.
        about: ``MethodName``, ``Authors``, ``Venue``.

    Raises:
        UserError: the blocks are missing or not as published; the weights do not load; it cannot be written.
    """
    output = expand_path(output, '-o')
    if output.suffix not in ('.mat', '.csv'):
        raise UserError(f'-o: expected a name that ends in {_ENDINGS}, got {output}')
    path = require_path(downloaded, 'downloaded')
    path = require_path(path / 'BenchmarkNoisyBlocksSrgb.mat', 'downloaded') if path.is_dir() else path
    denoise = Denoiser(weights, device, tile=0, self_ensemble=self_ensemble, network=network)
    if not os.access(make_folder(output.parent), os.W_OK):  # before hours of work
        raise UserError(f'-o {output}: the folder cannot be written to. Choose another one.')
    noisy = read_blocks(path, 'BenchmarkNoisyBlocksSrgb', incomplete)
    clean = np.empty_like(noisy)
    started = time.perf_counter()
    for image, block in tqdm(list(np.ndindex(noisy.shape[:2])), unit='block', file=sys.stderr):
        clean[image, block] = denoise(noisy[image, block])
    seconds = (time.perf_counter() - started) / (noisy.size / 3e6)
    with atomic_write(output) as partial:
        if output.suffix == '.mat':
            scipy.io.savemat(
                partial,
                {
                    _SIDD_VARIABLE: clean,
                    'TimeMPSrgb': seconds,
                    'OptionalData': about or {'MethodName': 'basicsr_sassid', 'Authors': '', 'Venue': ''},
                },
                do_compression=True,
            )
        else:
            with open(partial, 'w', newline='') as file:
                rows = csv.writer(file)
                rows.writerow(['ID', 'BLOCK'])
                for number, block in enumerate(clean.reshape(-1, *clean.shape[2:])):
                    rows.writerow([number, base64.b64encode(block.tobytes()).decode()])


def submit_dnd(
    downloaded: str | os.PathLike,
    weights: str | os.PathLike,
    output: str | os.PathLike,
    self_ensemble: bool = False,
    device: str = 'auto',
    incomplete: bool = False,
    network: dict[str, Any] | None = None,
) -> None:
    """Denoise the boxes of DND and write the bundle for its server: ``0001.mat`` to ``0050.mat``, to be zipped.

    Each box is denoised with up to 80 pixels around it, as many as the photograph has there, brought down to a multiple
    of 32. Floats in [0, 1], not rounded. A run that was stopped continues with the first photograph that is missing.

    Args:
        downloaded: the folder with ``info.mat`` and ``images_srgb``.
        output: folder.
        weights, self_ensemble, device, incomplete, network: see :func:`submit_sidd`.

    Raises:
        UserError: as there; the folder holds another network's bundle.
    """
    photos, boxes = find_photos([downloaded], incomplete), read_boxes([downloaded], incomplete)
    denoise = Denoiser(weights, device, tile=0, self_ensemble=self_ensemble, network=network)
    folder = make_folder(expand_path(output, '-o'))
    _claim(folder, {'weights': content_digest(weights), 'self_ensemble': self_ensemble})
    for number, path in tqdm(photos.items(), unit='photo', file=sys.stderr):
        target = folder / f'{number:04d}.mat'
        if target.exists():
            continue
        photo = read_photo_floats(path)
        inside = checked_boxes(path, number, photo.shape, boxes)
        clean = np.empty((1, len(inside)), object)
        for index, box in enumerate(inside):
            clean[0, index] = _denoised_box(denoise, photo, box)
        with atomic_write(target) as partial:
            scipy.io.savemat(partial, {'Idenoised': clean, 'israw': False, 'eval_version': '1.0'})


def _claim(folder: Path, made_of: dict[str, Any]) -> None:
    """Write into the folder what its bundle is made of. Raises UserError if it holds another bundle."""
    note = folder / 'made_of.json'
    if not note.exists() and any(folder.glob('[0-9]*.mat')):
        raise UserError(f'-o {folder} holds .mat files of something else. Choose another folder.')
    try:
        earlier = json.loads(note.read_bytes()) if note.exists() else made_of
    except ValueError:
        earlier = None
    if earlier != made_of:
        raise UserError(f'-o {folder} holds the bundle of another network. Choose another folder, or remove it.')
    write_json(made_of, note)


def _denoised_box(denoise: Denoiser, photo: np.ndarray, box: tuple[int, ...]) -> np.ndarray:
    top, bottom, left, right = box
    above, below, before, after = (
        min(room, _MAX_MARGIN) // _MULTIPLE * _MULTIPLE
        for room in (top, photo.shape[0] - bottom, left, photo.shape[1] - right)
    )
    with_context = photo[top - above : bottom + below, left - before : right + after].clip(0, 1)
    return denoise(with_context)[above : above + bottom - top, before : before + right - left]


def check_submission(path: str | os.PathLike) -> str:
    """Read a submission back as its server does. Returns its content in one line.

    Raises:
        UserError: the server would refuse it; the block that is wrong.
    """
    path = require_path(path, 'submission')
    if path.is_dir():
        return _check_bundle(path)
    if path.suffix == '.csv':
        blocks = _read_csv(path)
    elif path.suffix == '.mat':
        blocks = read_mat(path, _SIDD_VARIABLE)
    else:
        raise UserError(f'{path}: expected a folder (DND) or a name that ends in {_ENDINGS}')
    if blocks.shape != BLOCKS or blocks.dtype != np.uint8:
        raise UserError(f'{path}: expected {BLOCKS} uint8, got {blocks.shape} {blocks.dtype}')
    _refuse_black(
        path,
        [(f'image {image + 1}, block {block + 1}', blocks[image, block]) for image, block in np.ndindex(BLOCKS[:2])],
    )
    return f'{path}: {BLOCKS[0]} images of {BLOCKS[1]} blocks, {BLOCKS[2]}x{BLOCKS[3]}, 8 bits'


def _read_csv(path: Path) -> np.ndarray:
    csv.field_size_limit(2**24)
    try:
        with open(path, newline='') as file:
            header, *rows = csv.reader(file)
    except (ValueError, csv.Error) as error:  # empty, binary
        raise UserError(f'{path}: it is no table of values: {error}') from error
    if header != ['ID', 'BLOCK'] or any(len(row) != 2 for row in rows):
        raise UserError(f'{path}: expected rows of two columns, ID and BLOCK, found {", ".join(header)[:80]}')
    count = BLOCKS[0] * BLOCKS[1]
    if [row[0] for row in rows] != [str(number) for number in range(count)]:
        raise UserError(f'{path}: expected the rows 0 to {count - 1} in order, found {len(rows)} rows')
    try:
        return np.stack(
            [np.frombuffer(base64.b64decode(row[1], validate=True), np.uint8).reshape(BLOCKS[2:]) for row in rows]
        ).reshape(BLOCKS)
    except ValueError as error:
        raise UserError(f'{path}: a block is not 256x256x3 bytes in base64: {error}') from error


def _check_bundle(folder: Path) -> str:
    names = [f'{number:04d}.mat' for number in range(1, IMAGES + 1)]
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise UserError(f'{folder}: {len(missing)} of {IMAGES} files are missing, {missing[0]} first')
    for name in names:
        cells = read_mat(folder / name, 'Idenoised').ravel()
        if len(cells) != BOXES:
            raise UserError(f'{folder / name}: expected {BOXES} boxes, got {len(cells)}')
        for number, box in enumerate(cells, 1):
            if box.shape != (SIDE, SIDE, 3) or box.dtype != np.float32:
                raise UserError(
                    f'{folder / name}, box {number}: expected {SIDE}x{SIDE}x3 float32, got {box.shape} {box.dtype}'
                )
            if not (box.min() >= 0 and box.max() <= 1):  # also of NaN
                raise UserError(f'{folder / name}, box {number}: expected values in [0, 1]')
        if bool(read_mat(folder / name, 'israw').item()) or read_mat(folder / name, 'eval_version').item() != '1.0':
            raise UserError(f'{folder / name}: expected israw false and eval_version 1.0')
        _refuse_black(folder / name, [(f'box {number}', box) for number, box in enumerate(cells, 1)])
    return f'{folder}: {IMAGES} photographs of {BOXES} boxes, {SIDE}x{SIDE}, floats in [0, 1]'


def _refuse_black(path: Path, blocks: Sequence[tuple[str, np.ndarray]]) -> None:
    for name, block in blocks:
        if not block.any():
            raise UserError(f'{path}, {name}: it is all black: not denoised?')
