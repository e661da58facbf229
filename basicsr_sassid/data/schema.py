"""The typed option blocks of the datasets of single photographs, ``datasets.<phase>``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, field_validator

from basicsr_sassid.utils.names import FileName
from basicsr_sassid.utils.schema import OptionBlock

MAX_BATCH_SIZE, MAX_WORKERS, MAX_SCALE = 4096, 128, 64  # of one process

PhotoBlock = TypeVar('PhotoBlock', bound='PhotoOptions')


class BackendOptions(OptionBlock):
    """Block ``io_backend``.

    Attributes:
        type: ``disk`` or ``lmdb``; default: what the path looks like.
    """

    type: Literal['disk', 'lmdb'] | None = None


def _path_text(value: object) -> object:
    """A path object as text; other values as they are."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


RootPath = Annotated[str, BeforeValidator(_path_text)]


class PhotoOptions(OptionBlock):
    """Keys that the datasets of single photographs share.

    Attributes:
        name: of the dataset, for logs and file names.
        type: ``NoisyImageDataset`` or ``SyntheticNoiseDataset``.
        io_backend: ``{type: disk}`` or ``{type: lmdb}``; default: what the path looks like.
        patch_size: side of the square crop in pixels, in phase ``train`` only; no image may be smaller.
        use_hflip: flip at random in phase ``train``.
        use_rot: turn by a random number of quarters in phase ``train``; with ``use_hflip`` all eight symmetries.
        hold_out: phase ``train`` leaves out every n-th image, other phases contain these alone; 0: every phase contains
            all images.
        batch_size_per_gpu: samples of a batch of one process.
        num_worker_per_gpu: worker processes of one process.
        phase: ``train``, ``val`` or ``test``; the training loop sets it.
        scale: BasicSR's upscaling factor; the training loop sets it.
    """

    name: FileName | None = None
    type: str | None = None
    io_backend: BackendOptions = BackendOptions()
    patch_size: int | None = Field(default=None, ge=1, le=16384)
    use_hflip: bool = True
    use_rot: bool = True
    hold_out: int = 0
    batch_size_per_gpu: int | None = Field(default=None, ge=1, le=MAX_BATCH_SIZE)
    num_worker_per_gpu: int | None = Field(default=None, ge=0, le=MAX_WORKERS)
    phase: str | None = None
    scale: int = Field(default=1, ge=1, le=MAX_SCALE)

    @field_validator('hold_out')
    @classmethod
    def _leaves_images(cls, value: int) -> int:
        if value < 0 or value == 1:
            raise ValueError(f'expected 0 or a number >= 2, got {value}')
        return value

    @classmethod
    def from_options(cls: type[PhotoBlock], opt: Mapping[str, Any], where: str) -> PhotoBlock:
        """Check the block, in which a key without a value has its default. Raises UserError."""
        return cls.parse({key: value for key, value in opt.items() if value is not None}, where)


class NoisyImageOptions(PhotoOptions):
    """Block of a NoisyImageDataset.

    Attributes:
        dataroot_lq: folder of images, searched below, or ``*.lmdb``.
    """

    dataroot_lq: RootPath

    @classmethod
    def from_options(cls, opt: Mapping[str, Any], where: str) -> NoisyImageOptions:
        """As that of PhotoOptions, without ``dataroot_gt``, which the dataset does not read. Raises UserError."""
        return super().from_options({key: value for key, value in opt.items() if key != 'dataroot_gt'}, where)
