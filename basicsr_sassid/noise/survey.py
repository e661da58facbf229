"""What is in a folder of photographs: which can be read, how noisy each is, and which belong together."""
from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.cluster import hierarchy

from basicsr_sassid.io.foreign_formats import list_foreign
from basicsr_sassid.io.photo import EXTENSIONS, image_size, list_images, read_photo
from basicsr_sassid.noise.estimate import PATCH, find_flat_patches, pool_patches
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.utils.errors import UserError, require_path

MOST_PHOTOS = 64  # measured, evenly spaced
LITTLE = 0.5  # grey levels: rounding alone makes 0.29
_WIDE = 1.2  # between groups: that many times a factor of 2 in the level, or 0.2 in the neighbours' correlation


@dataclasses.dataclass(frozen=True)
class Group:
    """Photographs whose noise is alike: sigma in grey levels and the correlation of neighbouring pixels, medians."""
    files: list[Path]
    sigma: float
    correlation: float


@dataclasses.dataclass(frozen=True)
class Survey:
    """What :func:`survey` found.

    Attributes:
        photos: the files that can be read, with (height, width).
        failed: the others, with the reason.
        noise: of all of them; None where nothing can be measured.
        groups: the photographs by kind of noise, the largest group first.
        num_measured, num_grey: how many photographs were measured; how many of them have one channel.
    """
    photos: dict[Path, tuple[int, int]]
    failed: dict[str, str]
    noise: NoiseModel | None
    groups: list[Group]
    num_measured: int
    num_grey: int


def survey_files(photos: Sequence[str | os.PathLike]) -> Survey:
    """:func:`survey` of image files and folders (searched below). Raises UserError if there is no image."""
    paths: list[Path] = []
    foreign: dict[str, str] = {}
    for given in photos:
        path = require_path(given, 'photos')
        paths += list_images(path) if path.is_dir() else [path]
        foreign.update(list_foreign(path) if path.is_dir() else {})
    if not paths:
        hints = ''.join(f'\n{hint}' for hint in list(foreign.values())[:3])
        raise UserError(f'photos: no image ({", ".join(EXTENSIONS)}) in {", ".join(map(str, photos))} or below{hints}')
    found = survey(paths)
    return dataclasses.replace(found, failed={**found.failed, **foreign})


def survey(paths: Sequence[Path]) -> Survey:
    """Look at image files, and measure up to 64 of them, evenly spaced."""
    photos: dict[Path, tuple[int, int]] = {}
    failed: dict[str, str] = {}
    for path in paths:
        try:
            photos[path] = image_size(path)
        except UserError as error:
            failed[str(path)] = str(error)
    measured, parts, num_grey = [], [], 0
    for path in list(photos)[::max(math.ceil(len(photos) / MOST_PHOTOS), 1)]:
        try:
            photo = read_photo(path)
        except UserError as error:
            failed[str(path)] = str(error)
            del photos[path]
            continue
        if min(photo.pixels.shape[:2]) >= PATCH:
            num_grey += photo.pixels.shape[2] == 1
            measured.append(path)
            parts.append(find_flat_patches(photo.as_rgb_float()))
    try:
        noise = pool_patches(parts)
    except UserError:
        noise = None
    kinds = [(path, pool_patches([part])) for path, part in zip(measured, parts) if len(part.residual)]
    return Survey(photos, failed, noise, _groups(kinds), len(measured), num_grey)


def _groups(kinds: list[tuple[Path, NoiseModel]]) -> list[Group]:
    values = np.array([(noise.sigma.mean(), noise.correlation_at(1)) for _, noise in kinds]).reshape(-1, 2)
    labels = np.ones(len(values), int)
    if len(values) > 1:
        features = np.stack([np.log2(np.maximum(values[:, 0], LITTLE)), values[:, 1] / 0.2], axis=1)
        labels = hierarchy.fcluster(hierarchy.linkage(features, 'average'), _WIDE, 'distance')
    return sorted((Group([path for (path, _), own in zip(kinds, labels) if own == label],
                         *np.median(values[labels == label], axis=0).tolist()) for label in np.unique(labels)),
                  key=lambda group: -len(group.files))


def describe(found: Survey) -> str:
    """The table that `sassid noise` prints. Raises UserError if nothing could be measured."""
    noise = found.noise
    if noise is None:
        raise UserError(f'noise: nothing to measure. Of {len(found.photos)} readable images none has a square of '
                        f'{PATCH}x{PATCH} pixels that is neither black nor white. Give other photographs.'
                        + ''.join(f'\n{file}: {reason}' for file, reason in found.failed.items()))
    lines = [f'Noise of {noise.num_patches} flat squares, in grey levels (0 to 255):', '',
             f'{"":12}{"R":>8}{"G":>8}{"B":>8}', f'{"sigma":12}' + ''.join(f'{value:8.2f}' for value in noise.sigma)]
    grid = {name: {int(round(point[0])): point[1] for point in points} for name, points in noise.sigma_curve.items()}
    for level in sorted({level // 16 for points in grid.values() for level in points}):
        cells = [next((f'{sigma:8.2f}' for at, sigma in grid[name].items() if at // 16 == level), ' ' * 8)
                 for name in 'RGB']
        lines.append(f'  at {16 * level:3}-{16 * level + 15:<3} ' + ''.join(cells))
    lines += ['', 'Correlation by distance in pixels (strongest of each square ring):',
              '  ' + '  '.join(f'{radius}: {noise.correlation_at(radius):.3f}' for radius in range(1, MAX_LAG + 1)),
              f'Correlation of channels: RG {noise.cross_channel[0, 1]:.2f}, GB {noise.cross_channel[1, 2]:.2f}, '
              f'RB {noise.cross_channel[0, 2]:.2f}', '']
    if len(found.groups) > 1:
        lines += ['These photographs differ in their noise. Clean or train them group by group:',
                  *describe_groups(found.groups), '']
    if noise.sigma.max() < LITTLE:
        lines.append('There is almost no noise here: denoising would only remove detail.')
    else:
        lines.append(f'Correlated over {noise.correlation_length()} pixels. Recommended: network_bnn.blind_size: '
                     f'{noise.blind_size()} (and network_lan.receptive_size no larger)')
    return '\n'.join(lines)


def describe_groups(groups: Sequence[Group], most: int = 3) -> list[str]:
    """A line a group: how many photographs, their noise, their names."""
    return [f'  {len(group.files)} with sigma {group.sigma:.1f}, neighbours correlated {group.correlation:.2f}: '
            + ', '.join(path.name for path in group.files[:most])
            + (f' and {len(group.files) - most} more' if len(group.files) > most else '') for group in groups]
