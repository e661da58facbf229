"""Dataset of noisy photographs alone, for self-supervised training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from basicsr_sassid.data.photo_dataset import PhotoDataset, as_tensor, random_crop
from basicsr_sassid.data.schema import NoisyImageOptions
from basicsr_sassid.data.teacher_cache import TeacherCache, unpack


@DATASET_REGISTRY.register()
class NoisyImageDataset(PhotoDataset):
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

    option_schema = NoisyImageOptions

    def __init__(self, opt: Mapping[str, Any]) -> None:
        where = f'datasets.{opt.get("phase", "train")}'
        if opt.get('dataroot_gt') is not None:
            warnings.warn(
                f'{where}: dataroot_gt is not used; NoisyImageDataset trains on noisy images alone.', stacklevel=2
            )
        super().__init__(opt, NoisyImageOptions.from_options(opt, where), 'dataroot_lq', where)
        self.teachers: dict[str, TeacherCache] = {}

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        images = {'lq': self.image(index)}
        images.update((f'teacher_{name}', cache.read(index)) for name, cache in self.teachers.items())
        if self.patch_size is not None:
            images = random_crop(images, self.patch_size, self.options.use_hflip, self.options.use_rot)
        images = {name: unpack(image) if name.startswith('teacher_') else image for name, image in images.items()}
        return {**{name: as_tensor(image) for name, image in images.items()}, 'lq_path': self.paths[index]}

    def content_key(self) -> dict[str, Any]:
        """Names, shapes, and the files' sizes and times: what identifies these images without reading them."""
        files = [self.root / 'data.mdb'] if self.is_lmdb else [Path(path) for path in self.paths]
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return {'root': str(self.root.resolve()), 'paths': self.paths, 'sizes': self.sizes, 'files': stats}
