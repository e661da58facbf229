"""The images of one dataset of an evaluation, in memory."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from basicsr_sassid.evaluation.schema import DatasetOptions
from basicsr_sassid.training.datasets import complete_dataset, open_dataset
from basicsr_sassid.utils.errors import UserError


class Pair(NamedTuple):
    """A noisy image and its clean reference, (H, W, 3) uint8 RGB, and the name of the noisy file."""

    name: str
    noisy: np.ndarray
    clean: np.ndarray


def read_pairs(name: str, options: DatasetOptions) -> list[Pair]:
    """Read the images of ``datasets.<name>``: the first of every ``every``. Raises UserError."""
    where = f'datasets.{name}'
    block = {
        **complete_dataset(options.model_dump(exclude={'every'}), where, ['type', 'dataroot_lq', 'dataroot_gt']),
        'name': name,
        'phase': 'val',
        'scale': 1,
    }
    dataset = open_dataset(block, where)
    pairs = []
    for index in range(0, len(dataset), options.every):
        try:
            sample = dataset[index]
        except Exception as error:  # BasicSR's readers raise anything on a damaged image
            raise UserError(
                f'{where}: image {index + 1} of {block["dataroot_lq"]} or its clean reference cannot be read: {error}'
            ) from error
        noisy, clean = ((sample[key].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8) for key in ('lq', 'gt'))
        if noisy.shape != clean.shape:
            raise UserError(
                f'{where}: {sample["lq_path"]}: expected the size of its clean reference, {clean.shape}, '
                f'got {noisy.shape}'
            )
        pairs.append(Pair(Path(sample['lq_path']).stem, noisy, clean))
    if not pairs:
        raise UserError(f'{where}: no image in {block["dataroot_lq"]}')
    return pairs


def content_key(pairs: list[Pair]) -> list[list[Any]]:
    """What tells these images from others, of JSON's types."""
    return [[pair.name, zlib.crc32(pair.noisy.data), zlib.crc32(pair.clean.data)] for pair in pairs]
