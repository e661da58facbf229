"""The noise of image files, and how to say it."""
from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from basicsr_sassid._checks import UserError, existing
from basicsr_sassid.data.image_util import EXTENSIONS, list_images, read_photo
from basicsr_sassid.noise.estimate import MAX_LAG, PATCH, Noise, estimate_noise

MOST_PHOTOS = 64  # measured, evenly spaced
_LITTLE = 0.5  # grey levels: rounding alone makes 0.29


def measure_files(photos: Sequence[str | os.PathLike]) -> tuple[Noise, dict[str, str]]:
    """:func:`estimate_noise` of image files and folders (searched below).

    Returns:
        The noise, and the files that were left out with the reason.

    Raises:
        UserError: nothing there, or none of it can be measured.
    """
    paths: list[Path] = []
    for given in photos:
        path = existing(given, 'photos')
        paths += list_images(path) if path.is_dir() else [path]
    if not paths:
        raise UserError(f'photos: no image ({", ".join(EXTENSIONS)}) in {", ".join(map(str, photos))} or below')
    failed: dict[str, str] = {}

    def images() -> Iterator[np.ndarray]:
        for path in paths[::math.ceil(len(paths) / MOST_PHOTOS)]:
            try:
                pixels = read_photo(path).as_rgb_float()
                if min(pixels.shape[:2]) < PATCH:
                    raise UserError(f'{pixels.shape[0]}x{pixels.shape[1]} pixels are less than {PATCH} a side')
            except UserError as error:
                failed[str(path)] = str(error)
            else:
                yield pixels
    try:
        return estimate_noise(images()), failed
    except UserError as error:
        reasons = ''.join(f'\n{file}: {reason}' for file, reason in failed.items())
        raise UserError(f'{error}{reasons}') from error


def describe(noise: Noise) -> str:
    """The table that `sassid noise` prints."""
    lines = [f'Noise of {noise.num_squares} flat squares, in grey levels (0 to 255):', '',
             f'{"":12}{"R":>8}{"G":>8}{"B":>8}', f'{"sigma":12}' + ''.join(f'{value:8.2f}' for value in noise.sigma)]
    grid = {name: {int(round(point[0])): point[1] for point in points} for name, points in noise.levels.items()}
    for level in sorted({level // 16 for points in grid.values() for level in points}):
        cells = [next((f'{sigma:8.2f}' for at, sigma in grid[name].items() if at // 16 == level), ' ' * 8)
                 for name in 'RGB']
        lines.append(f'  at {16 * level:3}-{16 * level + 15:<3} ' + ''.join(cells))
    lines += ['', 'Correlation by distance in pixels (strongest of each square ring):',
              '  ' + '  '.join(f'{radius}: {noise.ring(radius):.3f}' for radius in range(1, MAX_LAG + 1)),
              f'Correlation of channels: RG {noise.cross_channel[0, 1]:.2f}, GB {noise.cross_channel[1, 2]:.2f}, '
              f'RB {noise.cross_channel[0, 2]:.2f}', '']
    if noise.sigma.max() < _LITTLE:
        lines.append('There is almost no noise here: denoising would only remove detail.')
    else:
        lines.append(f'Recommended: network_bnn.blind_size: {noise.blind_size()} (and network_lan.receptive_size no '
                     'larger)')
    return '\n'.join(lines)
