"""Noisy photographs and nothing else: what the self-supervised methods are trained on."""
from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.utils import FileClient
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from basicsr_sassid.data.teacher_cache import TeacherCache, unpack
from basicsr_sassid.io.photo import decode_photo, image_size, list_images
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_choice, check_keys

_KEYS = ('name', 'type', 'dataroot_lq', 'io_backend', 'patch_size', 'use_hflip', 'use_rot', 'phase', 'scale',
         'num_worker_per_gpu', 'batch_size_per_gpu', 'pin_memory', 'hold_out')
_META_LINE = re.compile(r'(?P<file>.+) \((?P<h>\d+),(?P<w>\d+),(?P<c>\d+)\) (?P<compress>\d+)')


@DATASET_REGISTRY.register()
class NoisyImageDataset(Dataset):
    """Crops of noisy images, from a folder (searched below, sorted) or a BasicSR LMDB. No clean image is read.

    Args:
        opt: option block with the keys
            ``dataroot_lq``: folder, or ``*.lmdb``;
            ``io_backend``: ``{type: disk}`` or ``{type: lmdb}``; by default what dataroot_lq looks like;
            ``patch_size``: side of the square crop in pixels, in phase ``train`` only; all images must be as large;
            ``hold_out``: every n-th image is left out in phase ``train``, and other phases give these alone; 0,
            the default: all images in every phase;
            ``use_hflip``, ``use_rot``: flip; flip and turn: together the eight symmetries of the square, default True.

    A sample is ``{'lq': (3, H, W) float32 RGB in [0, 1], 'lq_path': str}``: grey is repeated, alpha left out, 16 bits
    keep their precision. Crop and symmetry come from torch's random generator, which the training loop seeds for
    every draw: they are the same for any number of workers. With an entry in ``teachers`` (name -> TeacherCache) the
    sample also holds ``teacher_<name>``: the same crop, flip and turn of that teacher's answer.

    Raises:
        UserError: nothing there, no image, an unreadable one, one smaller than the patch, an unknown key, a folder
            that is no BasicSR LMDB.
    """

    def __init__(self, opt: dict) -> None:
        self.opt = opt
        where = f'datasets.{opt.get("phase", "train")}'
        if opt.get('dataroot_gt') is not None:
            warnings.warn(f'{where}: dataroot_gt is not used; NoisyImageDataset trains on noisy images alone.',
                          stacklevel=2)
        check_keys({k: v for k, v in opt.items() if k != 'dataroot_gt'}, _KEYS, where, required=['dataroot_lq'])
        self.root = require_path(opt['dataroot_lq'], f'{where}.dataroot_lq')
        backend = (opt.get('io_backend') or {}).get('type') or ('lmdb' if self.root.suffix == '.lmdb' else 'disk')
        check_choice(backend, ('disk', 'lmdb'), f'{where}.io_backend.type')
        self.is_lmdb = backend == 'lmdb'
        self.paths, self.sizes = self._read_meta() if self.is_lmdb else self._scan_folder()
        self._hold_out(opt.get('hold_out', 0), where)
        self.patch_size = None
        if opt.get('phase') == 'train':
            self.patch_size = opt.get('patch_size')
            if not isinstance(self.patch_size, int) or self.patch_size < 1:
                raise UserError(f'{where}.patch_size: expected a number of pixels >= 1, got {self.patch_size!r}')
            for path, size in zip(self.paths, self.sizes):
                if min(size) < self.patch_size:
                    raise UserError(f'{where}.patch_size: {self.patch_size} is larger than {path} '
                                    f'({size[0]}x{size[1]} pixels, height x width). Choose a smaller patch_size, or '
                                    'take that image out.')
        self.teachers: dict[str, TeacherCache] = {}
        self._file_client = None  # opened on first use, by each worker for itself

    def _hold_out(self, every: int, where: str) -> None:
        if not isinstance(every, int) or every < 0 or every == 1:
            raise UserError(f'{where}.hold_out: expected 0 or a number >= 2, got {every!r}')
        if every:
            train = self.opt.get('phase') == 'train'
            kept = [index for index in range(len(self.paths)) if (index % every != 0) == train]
            if not kept:
                raise UserError(f'{where}.hold_out: {every} leaves no image of {len(self.paths)}')
            self.paths, self.sizes = ([entries[index] for index in kept] for entries in (self.paths, self.sizes))

    def _scan_folder(self) -> tuple[list[str], list[tuple[int, int]]]:
        paths = list_images(self.root)
        if not paths:
            raise UserError(f'dataroot_lq: no image in {self.root} or below')
        return [str(path) for path in paths], [image_size(path) for path in paths]

    def _read_meta(self) -> tuple[list[str], list[tuple[int, int]]]:
        meta = self.root / 'meta_info.txt'
        if self.root.suffix != '.lmdb' or not meta.is_file() or not (self.root / 'data.mdb').is_file():
            raise UserError(f'dataroot_lq: {self.root} is no LMDB in BasicSR\'s format (a folder *.lmdb with data.mdb '
                            'and meta_info.txt). Write one with: sassid prepare folder PHOTOS -o NAME.lmdb')
        keys, sizes = [], []
        for number, line in enumerate(meta.read_text().splitlines(), 1):
            match = _META_LINE.fullmatch(line)
            if match is None:
                raise UserError(f'{meta}, line {number}: expected "name.png (height,width,channels) compression", '
                                f'found {line!r}. Write the LMDB again with: sassid prepare folder')
            keys.append(match['file'].split('.')[0])  # BasicSR's rule: the key ends at the first dot
            sizes.append((int(match['h']), int(match['w'])))
        if not keys:
            raise UserError(f'dataroot_lq: {meta} names no image')
        return keys, sizes

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        images = {'lq': self.image(index)}
        images.update((f'teacher_{name}', cache.read(index)) for name, cache in self.teachers.items())
        if self.patch_size is not None:
            images = self._cut(images)
        images = {name: unpack(image) if name.startswith('teacher_') else image for name, image in images.items()}
        return {**{name: torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
                   for name, image in images.items()}, 'lq_path': self.paths[index]}

    def image(self, index: int) -> np.ndarray:
        """A whole image: (H, W, 3) float32 RGB in [0, 1]."""
        path = self.paths[index]
        return decode_photo(self._read(path), path).as_rgb_float()

    def content_key(self) -> dict[str, Any]:
        """What tells these images from others without reading them: names, shapes, files' sizes and times."""
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
        content = self._file_client.get(path, 'lq')
        if content is None:
            raise UserError(f'{self.root}: meta_info.txt names {path!r}, data.mdb does not hold it. Write it again '
                            'with: sassid prepare folder')
        return bytes(content)

    def _cut(self, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same patch of all, flipped and turned alike."""
        side = self.patch_size
        top, left = (int(torch.randint(length - side + 1, ())) for length in images['lq'].shape[:2])
        flip, turns = int(torch.randint(2, ())), int(torch.randint(4, ()))
        flip, turns = flip and self.opt.get('use_hflip', True), turns * self.opt.get('use_rot', True)
        return {name: np.rot90(image[top:top + side, left:left + side][:, ::-1 if flip else 1], turns)
                for name, image in images.items()}
