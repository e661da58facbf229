"""Photographs of the installed package scikit-image: small clean training and validation sets without a download."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import skimage
from basicsr.utils.matlab_functions import imresize

from basicsr_sassid.data.prepare.folder import photo_source
from basicsr_sassid.data.prepare.pairs import write_all
from basicsr_sassid.data.prepare.writer import Prepared, Source, check_cutting
from basicsr_sassid.io.photo import read_photo
from basicsr_sassid.utils.errors import UserError

# Key -> file. No scene is in both: the two motorcycles are one stereo pair. Four of train are grey, since the colour
# photographs alone have little fine texture. Microscopy, medical images, astronomy, scans, drawings and a photograph
# blurred by motion are left out.
SPLITS: dict[str, dict[str, str]] = {
    'train': {
        'astronaut': 'astronaut.png',
        'brick': 'brick.png',
        'camera': 'camera.png',
        'grass': 'grass.png',
        'gravel': 'gravel.png',
        'motorcycle_left': 'motorcycle_left.png',
        'motorcycle_right': 'motorcycle_right.png',
        'rocket': 'rocket.jpg',
    },
    'val': {'cat': 'chelsea.png', 'coffee': 'coffee.png'},
}
# Not skimage.data.astronaut() and the like, which download a file that the package lacks.
_FOLDER = Path(skimage.__file__).parent / 'data'
_SCALE = 4  # of the reduced photographs, for super-resolution


def prepare_skimage(
    output: str | os.PathLike[str], workers: int | None = None, quiet: bool = False
) -> dict[str, Prepared | None]:
    """Write photographs of scikit-image as ``skimage/{train,val}.lmdb``, 8-bit RGB; grey is repeated. Their sides are
    cut to multiples of 4, and ``skimage/{train,val}_x4.lmdb`` holds them reduced by 4 (BasicSR's bicubic imresize).

    Args:
        output: folder for the LMDBs. Existing ones are kept.
        workers, quiet: see :func:`write_lmdb`.

    Returns:
        LMDB -> what was written; None where it existed.

    Raises:
        UserError: the installed scikit-image lacks a file, or one is damaged.
    """
    check_cutting(0, None, workers, 0)
    for file in (file for files in SPLITS.values() for file in files.values()):
        if not (_FOLDER / file).is_file():
            raise UserError(
                f'prepare skimage: the installed scikit-image {version("scikit-image")} has no {_FOLDER / file}. '
                'Install it again: pip install --force-reinstall --no-deps scikit-image'
            )
    layout = {
        f'skimage/{split}{suffix}.lmdb': functools.partial(_sources, files, scale)
        for split, files in SPLITS.items()
        for suffix, scale in (('', 1), (f'_x{_SCALE}', _SCALE))
    }
    return write_all(layout, output, 0, workers, quiet)


def _sources(files: Mapping[str, str], scale: int) -> list[Source]:
    return [_source(photo_source(_FOLDER / file, key), _FOLDER / file, scale) for key, file in files.items()]


def _source(source: Source, path: Path, scale: int) -> Source:
    height, width = (side // _SCALE * _SCALE // scale for side in source.size)
    return dataclasses.replace(source, read=functools.partial(_read_rgb, path, scale), size=(height, width))


def _read_rgb(path: Path, scale: int) -> np.ndarray:
    """(H, W, 3) uint8: the pixels, grey repeated for networks of three channels, reduced. Raises UserError."""
    pixels = read_photo(path).pixels
    height, width = (side // _SCALE * _SCALE for side in pixels.shape[:2])
    pixels = np.repeat(pixels[:height, :width], 3 // pixels.shape[2], axis=2)
    if scale == 1:
        return pixels
    reduced: Any = imresize(pixels.astype(np.float32) / 255, 1 / scale)
    return (reduced * 255).round().clip(0, 255).astype(np.uint8)
