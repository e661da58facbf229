"""The training set of a run: whether its photographs can be measured, and an LMDB of their sub-images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from basicsr_sassid.data.prepare.folder import prepare_folder
from basicsr_sassid.noise.estimate import PATCH
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.survey import LITTLE, Survey
from basicsr_sassid.pipeline.blending import LEAST_SIDE
from basicsr_sassid.pipeline.console import ProgressBar
from basicsr_sassid.pipeline.options import CleanOptions
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import count_noun

_MOST_MEGAPIXELS = 300  # of more, evenly spaced photographs are taken
_TRAINING_BYTES, _OUTPUT_BYTES = 6 + 6, 3  # of a pixel: sub-images and teacher cache; outputs
_SPARE_BYTES = 2**28


def check_survey(found: Survey, failed: Mapping[str, str], options: CleanOptions) -> None:
    """Raise UserError if no photograph can be read, or there is nothing to measure or almost no noise.

    Args:
        found: the survey.
        failed: files that cannot be read, with the reason.
        options: of the run; given weights need no measurement.
    """
    require_photographs(found, failed)
    if options.weights is None:
        require_noise(found, '--blind-size 3' if options.blind_size == 'auto' else None)


def require_photographs(found: Survey, failed: Mapping[str, str]) -> None:
    """Raise UserError if no photograph can be read; ``failed`` has the reasons."""
    if not found.photos:
        raise UserError('none of the photographs can be read:' + ''.join(f'\n{reason}' for reason in failed.values()))


def require_noise(found: Survey, anyway: str | None) -> NoiseModel:
    """The noise of a survey. Raises UserError if it was not measured, or where there is almost none.

    Args:
        found: the survey.
        anyway: the option with which photographs of almost no noise are denoised; None: no option is needed.
    """
    if found.noise is None:
        raise UserError(
            f'{count_noun(len(found.photos), "photograph")}, and no patch of {PATCH}x{PATCH} pixels in them that is '
            'neither black nor white: nothing to measure or to train on. Give larger ones, or '
            '--weights.'
        )
    sigma = found.noise.sigma.max()
    if sigma < LITTLE and anyway is not None:
        raise UserError(
            f'almost no noise found: its standard deviation is {sigma:.2f} of 255 grey levels. '
            f'Denoising would only remove detail; nothing was written. To denoise all the same, give {anyway}.'
        )
    return found.noise


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
