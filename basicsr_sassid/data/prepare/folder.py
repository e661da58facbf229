"""Prepare a folder of photographs: one LMDB of sub-images, from which crops are read quickly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from basicsr_sassid.data.prepare.writer import Prepared, Source, check_cutting, key_of, write_lmdb
from basicsr_sassid.io.photo import image_size, list_images, read_photo
from basicsr_sassid.utils.errors import UserError, require_path


def prepare_folder(
    photos: Sequence[str | os.PathLike[str]],
    lmdb_path: str | os.PathLike[str],
    size: int = 512,
    step: int | None = None,
    strict: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> Prepared:
    """Cut photographs into sub-images and write them to an LMDB that BasicSR's datasets and NoisyImageDataset read.

    Args:
        photos: image files and folders (searched below).
        lmdb_path, size, step, strict, workers, quiet: see :func:`write_lmdb`.

    Grey stays grey, 16 bits stay 16 bits, alpha is left out.

    Raises:
        UserError: a path does not exist, no readable image, the LMDB exists, no space left, or strict and a damaged
            image.
    """
    check_cutting(size, step, workers)
    files: list[Path] = []
    for photo in photos:
        path = require_path(photo, 'photos')
        images = list_images(path) if path.is_dir() else [path]
        if not images:
            raise UserError(f'photos: no image in {path} or below')
        files += images
    sources = [photo_source(file, f'{number:06d}_{key_of(file.stem)}') for number, file in enumerate(files)]
    return write_lmdb(sources, lmdb_path, size, step, strict, workers, quiet)


def photo_source(file: Path, key: str) -> Source:
    """The source of an image file; an unreadable one has size (0, 0)."""
    stat = file.stat()
    try:
        size = image_size(file)
    except UserError:
        size = 0, 0  # reported when it is read
    return Source(str(file), key, lambda: read_photo(file).pixels, size, (stat.st_size, stat.st_mtime_ns))
