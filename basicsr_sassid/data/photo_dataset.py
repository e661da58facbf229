"""What the datasets of single photographs share: folder or LMDB, phases, and reading one image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import lmdb
import numpy as np
import torch
from basicsr.utils import FileClient
from torch import Tensor
from torch.utils.data import Dataset

from basicsr_sassid.data.lmdb_meta import read_lmdb_meta
from basicsr_sassid.data.schema import PhotoOptions
from basicsr_sassid.io.photo import decode_photo, image_size, list_images
from basicsr_sassid.utils.errors import UserError, require_path


class PhotoDataset(Dataset[dict[str, Any]]):
    """Base of the datasets whose samples are made of one image: from a folder (searched below, sorted) or a BasicSR
    LMDB.

    Args:
        opt: option block as the caller wrote it.
        options: the same, checked.
        root_key: key of the path, ``dataroot_lq`` or ``dataroot_gt``.
        where: place of the block in the option file, for errors.

    Attributes:
        option_schema: class of the option block; the training loop checks the block with it.
        root: folder or LMDB.
        is_lmdb: whether the images are read from an LMDB.
        paths: file, or key in the LMDB, of each image.
        sizes: (height, width) of each image.
        patch_size: side of the crops in pixels; None outside phase ``train``, whose samples are whole images.

    Raises:
        UserError: the path does not exist, no image, an unreadable one, one smaller than the patch, a folder that is no
            BasicSR LMDB, or a damaged one.
    """

    option_schema: ClassVar[type[PhotoOptions]]

    def __init__(self, opt: Mapping[str, Any], options: PhotoOptions, root_key: str, where: str) -> None:
        self.opt, self.options = opt, options
        self.root = require_path(getattr(options, root_key), f'{where}.{root_key}')
        backend = options.io_backend.type or ('lmdb' if self.root.suffix == '.lmdb' else 'disk')
        self.is_lmdb = backend == 'lmdb'
        self.paths, self.sizes = read_lmdb_meta(self.root, root_key) if self.is_lmdb else self._scan_folder(root_key)
        self._select_phase(where)
        self.patch_size = options.patch_size if options.phase == 'train' else None
        if options.phase == 'train':
            self._check_patch_size(where)
        self._file_client: FileClient | None = None  # opened on first use, by each worker for itself

    def _select_phase(self, where: str) -> None:
        """Apply ``hold_out``."""
        every, is_train = self.options.hold_out, self.options.phase == 'train'
        if every:
            subset = [index for index in range(len(self.paths)) if (index % every != 0) == is_train]
            if not subset:
                raise UserError(f'{where}.hold_out: {every} leaves no image of {len(self.paths)}')
            self.paths, self.sizes = [self.paths[index] for index in subset], [self.sizes[index] for index in subset]

    def _check_patch_size(self, where: str) -> None:
        if self.patch_size is None:
            raise UserError(f'{where}.patch_size: expected a number of pixels >= 1, got None')
        for path, size in zip(self.paths, self.sizes):
            if min(size) < self.patch_size:
                raise UserError(
                    f'{where}.patch_size: {self.patch_size} is larger than {path} '
                    f'({size[0]}x{size[1]} pixels, height x width). Choose a smaller patch_size, or '
                    'take that image out.'
                )

    def _scan_folder(self, root_key: str) -> tuple[list[str], list[tuple[int, int]]]:
        paths = list_images(self.root)
        if not paths:
            raise UserError(f'{root_key}: no image in {self.root} or below')
        return [str(path) for path in paths], [image_size(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> np.ndarray:
        """A whole image: (H, W, 3) float32 RGB in [0, 1]."""
        path = self.paths[index]
        return decode_photo(self._read(path), path).as_rgb_float()

    def _read(self, path: str) -> bytes:
        if not self.is_lmdb:
            try:
                return Path(path).read_bytes()
            except OSError as error:
                raise UserError(f'cannot read {path}: {error.strerror or error}.') from error
        if self._file_client is None:
            self._file_client = FileClient('lmdb', db_paths=str(self.root), client_keys='photo')
        try:
            return bytes(self._file_client.get(path, 'photo'))
        except (lmdb.Error, TypeError) as error:  # TypeError: of None, for a key that has gone since it was opened
            raise UserError(f'{self.root} is damaged at {path!r}: {error}. Copy or write it again.') from error


def random_crop(
    images: Mapping[str, np.ndarray], side: int, flip: bool = True, turn: bool = True
) -> dict[str, np.ndarray]:
    """The same random crop of all images, flipped and turned alike. The draws are torch's.

    Args:
        images: (H, W, C) each, of one size; ``lq`` is among them.
        side: of the crop in pixels.
        flip: flip it or not, at random.
        turn: turn it by a random number of quarters.
    """
    top, left = (int(torch.randint(length - side + 1, ())) for length in images['lq'].shape[:2])
    flipped, turns = int(torch.randint(2, ())) * flip, int(torch.randint(4, ())) * turn
    return {
        name: np.rot90(image[top : top + side, left : left + side][:, :: -1 if flipped else 1], turns)
        for name, image in images.items()
    }


def as_tensor(image: np.ndarray) -> Tensor:
    """(H, W, C) array -> (C, H, W) tensor of the same dtype."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
