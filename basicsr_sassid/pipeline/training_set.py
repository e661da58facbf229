"""The training set of a run: its photographs as an LMDB of sub-images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.pipeline.blending import LEAST_SIDE
from basicsr_sassid.pipeline.console import ProgressBar
from basicsr_sassid.utils.errors import UserError

_MOST_MEGAPIXELS = 300  # of more, evenly spaced photographs are taken
_TRAINING_BYTES, _OUTPUT_BYTES = 6 + 6, 3  # of a pixel: sub-images and teacher cache; outputs
_SPARE_BYTES = 2**28


def prepare_training_set(photos: Mapping[Path, tuple[int, int]], folder: Path, progress: ProgressBar) -> Path:
    """Write ``noisy.lmdb``, unless it exists.

    Args:
        photos: photograph -> (height, width) in pixels; those of less than 128 pixels a side are left out.
        folder: of the run.
        progress: shows the step.

    Returns:
        The LMDB.

    Raises:
        UserError: all photographs are too small; no space.
    """
    sizes = {path: size for path, size in photos.items() if min(size) >= LEAST_SIDE}
    if not sizes:
        raise UserError(
            f'no photograph is {LEAST_SIDE} pixels a side or more: too little to train on. Give larger '
            'ones, --weights, or --effort instant.'
        )
    subset = list(sizes)[:: max(math.ceil(megapixels(sizes) / _MOST_MEGAPIXELS), 1)]
    database = folder / 'noisy.lmdb'
    if not database.exists():
        training_pixels = sum(math.prod(sizes[path]) for path in subset)
        check_space(folder, int(training_pixels * _TRAINING_BYTES + megapixels(photos) * 1e6 * _OUTPUT_BYTES))
        progress.step('reading')
        prepare_folder(subset, database, quiet=True)
    return database


def megapixels(sizes: Mapping[Path, tuple[int, int]]) -> float:
    """Total size of images with sizes (height, width)."""
    return sum(height * width for height, width in sizes.values()) / 1e6


def check_space(folder: Path, num_bytes: int) -> None:
    """Raise UserError if less than ``num_bytes`` and a quarter of a GB are free in ``folder``."""
    need, free = num_bytes + _SPARE_BYTES, shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f'-o: {need / 1e9:.1f} GB are needed in {folder.parent}, {free / 1e9:.1f} GB are free. Free '
            'some space, or choose another folder.'
        )
