"""`sassid iqa`: the quality of image files by SFD-IQA."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np

from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.photo import find_images, read_photo
from basicsr_sassid.metrics.sfd_quality import SFDQuality
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.errors import UserError


def rate_files(
    images: Sequence[str | os.PathLike[str]],
    weights: str | os.PathLike[str],
    feature_fraction: float | None = None,
    patch_size: int | None = None,
    shorter_side: int | None = None,
    semantic_weights: str | None = None,
    device: str = 'auto',
) -> tuple[dict[str, float], dict[str, str]]:
    """Quality of image files, in [0, 1], higher is better.

    Args:
        images: files or folders (searched below).
        weights, feature_fraction, patch_size, shorter_side, semantic_weights: see SFDQuality.
        device: ``auto`` or torch's name of a device.

    Returns:
        file -> quality, and file -> reason for those that cannot be rated.

    Raises:
        UserError: no image; see also SFDQuality.
    """
    paths = find_images(images, 'images')
    device = str(choose_device(device))
    rate = SFDQuality(weights, feature_fraction, patch_size, shorter_side, semantic_weights, device)
    ratings: dict[str, float] = {}
    failed: dict[str, str] = {}
    for path in paths:
        try:
            ratings[str(path)] = rate(read_photo(path).as_rgb_float().astype(np.float32))
        except UserError as error:
            failed[str(path)] = str(error)
    return ratings, failed


def write_ratings(ratings: Mapping[str, float], output: str | os.PathLike[str]) -> None:
    """A CSV with the columns ``file`` and ``quality``. Raises UserError if it cannot be written."""
    with atomic_write(output) as partial, open(partial, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file)
        writer.writerow(['file', 'quality'])
        writer.writerows((path, f'{quality:.6f}') for path, quality in ratings.items())
