"""Dataset of noisy photographs alone, for self-supervised training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import torch
from basicsr.utils import FileClient
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from basicsr_sassid.data.lmdb_meta import read_lmdb_meta
from basicsr_sassid.data.schema import NoisyImageOptions
from basicsr_sassid.data.teacher_cache import TeacherCache, unpack
from basicsr_sassid.io.photo import decode_photo, image_size, list_images
from basicsr_sassid.utils.errors import UserError, require_path


@DATASET_REGISTRY.register()
class NoisyImageDataset(Dataset[dict[str, Any]]):
    """Crops of noisy images, from a folder (searched below, sorted) or a BasicSR LMDB. No clean image is read.

    A sample is ``{'lq': (3, H, W) float32 RGB in [0, 1], 'lq_path': str}``: grey is repeated, alpha left out, 16 bits
    keep their precision. Crop and symmetry come from torch's random generator, which the training loop seeds for
    every draw, so they do not depend on the number of workers. With an entry in ``teachers`` (name -> TeacherCache) a
    sample also contains ``teacher_<name>``: the same crop, flip and turn of that teacher's prediction.

    Args:
        opt: option block, see :class:`NoisyImageOptions`. ``dataroot_gt`` is ignored with a warning.

    Attributes:
        paths: file, or key in the LMDB, of each image.
        sizes: (height, width) of each image.
        patch_size: side of the crops in pixels; None outside phase ``train``, whose samples are whole images.
        teachers: name -> cache of a teacher's predictions; empty at first.

    Raises:
        UserError: the path does not exist, no image, an unreadable one, one smaller than the patch, an unknown key, a
            folder that is no BasicSR LMDB, or a damaged one.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = opt
        where = f'datasets.{opt.get("phase", "train")}'
        if opt.get('dataroot_gt') is not None:
            warnings.warn(
                f'{where}: dataroot_gt is not used; NoisyImageDataset trains on noisy images alone.', stacklevel=2
            )
        self.options = NoisyImageOptions.from_options(
            {key: value for key, value in opt.items() if key != 'dataroot_gt'}, where
        )
        self.root = require_path(self.options.dataroot_lq, f'{where}.dataroot_lq')
        backend = self.options.io_backend.type or ('lmdb' if self.root.suffix == '.lmdb' else 'disk')
        self.is_lmdb = backend == 'lmdb'
        self.paths, self.sizes = read_lmdb_meta(self.root) if self.is_lmdb else self._scan_folder()
        self._select_phase(where)
        self.patch_size = self.options.patch_size if self.options.phase == 'train' else None
        if self.options.phase == 'train':
            self._check_patch_size(where)
        self.teachers: dict[str, TeacherCache] = {}
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

    def _scan_folder(self) -> tuple[list[str], list[tuple[int, int]]]:
        paths = list_images(self.root)
        if not paths:
            raise UserError(f'dataroot_lq: no image in {self.root} or below')
        return [str(path) for path in paths], [image_size(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        images = {'lq': self.image(index)}
        images.update((f'teacher_{name}', cache.read(index)) for name, cache in self.teachers.items())
        if self.patch_size is not None:
            images = random_crop(images, self.patch_size, self.options.use_hflip, self.options.use_rot)
        images = {name: unpack(image) if name.startswith('teacher_') else image for name, image in images.items()}
        return {
            **{
                name: torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))) for name, image in images.items()
            },
            'lq_path': self.paths[index],
        }

    def image(self, index: int) -> np.ndarray:
        """A whole image: (H, W, 3) float32 RGB in [0, 1]."""
        path = self.paths[index]
        return decode_photo(self._read(path), path).as_rgb_float()

    def content_key(self) -> dict[str, Any]:
        """Names, shapes, and the files' sizes and times: what identifies these images without reading them."""
        files = [self.root / 'data.mdb'] if self.is_lmdb else [Path(path) for path in self.paths]
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return {'root': str(self.root.resolve()), 'paths': self.paths, 'sizes': self.sizes, 'files': stats}

    def _read(self, path: str) -> bytes:
        if not self.is_lmdb:
            try:
                return Path(path).read_bytes()
            except OSError as error:
                raise UserError(f'cannot read {path}: {error.strerror or error}.') from error
        if self._file_client is None:
            self._file_client = FileClient('lmdb', db_paths=str(self.root), client_keys='lq')
        try:
            return bytes(self._file_client.get(path, 'lq'))
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
