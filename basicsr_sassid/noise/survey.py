"""Survey of a folder of photographs: which can be read, how noisy each is, and which have noise alike."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.cluster import hierarchy

from basicsr_sassid.io.foreign_formats import list_foreign
from basicsr_sassid.io.photo import find_images, image_size, read_photo
from basicsr_sassid.noise.estimate import PATCH, FlatPatches, find_flat_patches, pool_patches
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.sequences import count_noun, evenly_spaced

MOST_PHOTOS = 64  # measured, evenly spaced
LITTLE = 0.5  # grey levels: rounding alone makes 0.29
_WIDE = 1.2  # distance of groups, in units of a factor of 2 in sigma or 0.2 in the neighbours' correlation
_BIN = 16  # grey levels of a row of the table


@dataclasses.dataclass(frozen=True)
class Group:
    """Photographs whose noise is alike: sigma in grey levels and the correlation of neighbouring pixels, medians."""

    files: list[Path]
    sigma: float
    correlation: float


@dataclasses.dataclass(frozen=True)
class Survey:
    """Result of :func:`survey`.

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


def survey_files(photos: Sequence[str | os.PathLike[str]]) -> Survey:
    """:func:`survey` of image files and folders (searched below). Raises UserError if there is no image."""
    result = survey(find_images(photos, 'photos'))
    folders = [path for path in (require_path(entry, 'photos') for entry in photos) if path.is_dir()]
    foreign = {file: hint for folder in folders for file, hint in list_foreign(folder).items()}
    return dataclasses.replace(result, failed={**result.failed, **foreign})


def survey(paths: Sequence[Path]) -> Survey:
    """Read the sizes of image files, and measure the noise of up to 64 of them, evenly spaced."""
    photos: dict[Path, tuple[int, int]] = {}
    failed: dict[str, str] = {}
    for path in paths:
        try:
            photos[path] = image_size(path)
        except UserError as error:
            failed[str(path)] = str(error)
    measured: dict[Path, FlatPatches] = {}
    num_grey = 0
    for path in evenly_spaced(list(photos), MOST_PHOTOS):
        try:
            photo = read_photo(path)
        except UserError as error:
            failed[str(path)] = str(error)
            del photos[path]
            continue
        if min(photo.pixels.shape[:2]) >= PATCH:
            num_grey += photo.pixels.shape[2] == 1
            measured[path] = find_flat_patches(photo.as_rgb_float())
    try:
        noise = pool_patches(measured.values())
    except UserError:
        noise = None
    models = {path: pool_patches([patches]) for path, patches in measured.items() if len(patches.residual)}
    return Survey(photos, failed, noise, _groups(models), len(measured), num_grey)


def _groups(models: dict[Path, NoiseModel]) -> list[Group]:
    """The photographs clustered by sigma and by the correlation of neighbouring pixels."""
    values = np.array([(noise.sigma.mean(), noise.correlation_at(1)) for noise in models.values()]).reshape(-1, 2)
    labels = np.ones(len(values), int)
    if len(values) > 1:
        features = np.stack([np.log2(np.maximum(values[:, 0], LITTLE)), values[:, 1] / 0.2], axis=1)
        labels = hierarchy.fcluster(hierarchy.linkage(features, 'average'), _WIDE, 'distance')
    groups: list[Group] = []
    for label in np.unique(labels):
        files = [path for path, file_label in zip(models, labels) if file_label == label]
        sigma, correlation = np.median(values[labels == label], axis=0).tolist()
        groups.append(Group(files, sigma, correlation))
    return sorted(groups, key=lambda group: -len(group.files))


def describe(survey: Survey) -> str:
    """The table that `sassid noise` prints. Raises UserError if nothing could be measured."""
    noise = survey.noise
    if noise is None:
        raise UserError(
            f'noise: nothing to measure in {count_noun(len(survey.photos), "readable image")}: no patch of '
            f'{PATCH}x{PATCH} pixels that is neither black nor white. Give other photographs.'
            + ''.join(f'\n{file}: {reason}' for file, reason in survey.failed.items())
        )
    lines = [
        f'Noise of {noise.describe_sigma()}, in {noise.num_patches} flat patches. In grey levels (0 to 255):',
        '',
        *_sigma_rows(noise),
        '',
        *_correlation_rows(noise),
        '',
    ]
    if len(survey.groups) > 1:
        lines += [
            'These photographs differ in their noise. Clean or train them group by group:',
            *describe_groups(survey.groups),
            '',
        ]
    if noise.sigma.max() < LITTLE:
        lines.append('There is almost no noise here: denoising would only remove detail.')
    else:
        lines.append(
            f'Correlated over {count_noun(noise.correlation_length(), "pixel")}. Recommended: network_bnn.blind_size: '
            f'{noise.blind_size()} (and network_lan.receptive_size no larger)'
        )
    return '\n'.join(lines)


def _sigma_rows(noise: NoiseModel) -> list[str]:
    """Sigma of each channel, in all and by intensity."""
    rows = [
        f'{"":12}' + ''.join(f'{name:>8}' for name in 'RGB'),
        f'{"sigma":12}' + ''.join(f'{sigma:8.2f}' for sigma in noise.sigma),
    ]
    by_bin: dict[str, dict[int, float]] = {}  # channel -> intensity bin -> sigma
    for name, points in noise.sigma_curve.items():
        by_bin[name] = {}
        for intensity, sigma in points:
            by_bin[name].setdefault(int(round(intensity)) // _BIN, sigma)
    for intensity_bin in sorted(set().union(*by_bin.values())):
        cells = [f'{by_bin[name][intensity_bin]:8.2f}' if intensity_bin in by_bin[name] else ' ' * 8 for name in 'RGB']
        first = _BIN * intensity_bin
        rows.append(f'  at {first:3}-{first + _BIN - 1:<3} ' + ''.join(cells))
    return rows


def _correlation_rows(noise: NoiseModel) -> list[str]:
    by_distance = [f'{radius}: {noise.correlation_at(radius):.3f}' for radius in range(1, MAX_LAG + 1)]
    cross = noise.cross_channel
    return [
        'Correlation by distance in pixels (strongest of each square ring):',
        '  ' + '  '.join(by_distance),
        f'Correlation of channels: RG {cross[0, 1]:.2f}, GB {cross[1, 2]:.2f}, RB {cross[0, 2]:.2f}',
    ]


def describe_groups(groups: Sequence[Group], most: int = 3) -> list[str]:
    """One line per group: the number of its photographs, their noise, the names of ``most`` of them."""
    lines: list[str] = []
    for group in groups:
        names = ', '.join(path.name for path in group.files[:most])
        rest = f' and {len(group.files) - most} more' if len(group.files) > most else ''
        lines.append(
            f'  {len(group.files)} with sigma {group.sigma:.1f}, neighbours correlated '
            f'{group.correlation:.2f}: {names}{rest}'
        )
    return lines
