"""PolyU Real-World Noisy Images (Xu et al., arXiv 1804.02603): one shot and the mean of many per scene, JPEG."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from basicsr_sassid.data.prepare.pairs import real_and_mean, write_all
from basicsr_sassid.data.prepare.writer import Prepared, Source, check_cutting
from basicsr_sassid.utils.errors import UserError, require_path

CROPS, SIDE, SCENES = 100, 512, 40


def prepare_polyu(
    downloaded: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    size: int = 512,
    incomplete: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Prepared | None]:
    """Write ``CroppedImages`` as ``PolyU/{noisy,clean}.lmdb`` (uncut), ``OriginalImages`` as ``PolyU_full/...``
    (sub-images).

    Args:
        downloaded: the repository's folder, or one of the two in it.
        output, size, incomplete: see :func:`prepare_sidd`.

    Raises:
        UserError: neither folder exists, a count or size that is not as published, one of a pair missing.
    """
    check_cutting(size, None, workers)
    layout: dict[str, Callable[[], list[Source]]] = {}
    for folder, name, side, expected in (
        ('CroppedImages', 'PolyU', SIDE, CROPS),
        ('OriginalImages', 'PolyU_full', None, SCENES),
    ):
        folders = _folders(downloaded, folder)
        if folders:
            noisy, clean = real_and_mean(folders, 'jpe?g', side, expected, incomplete, f'PolyU, {folder}')
            layout.update(
                {f'{name}/noisy.lmdb': lambda noisy=noisy: noisy, f'{name}/clean.lmdb': lambda clean=clean: clean}
            )
    if not layout:
        raise UserError(
            f'prepare polyu: no folder CroppedImages or OriginalImages in {", ".join(map(str, downloaded))} or below'
        )
    return write_all(layout, output, {f'PolyU_full/{side}.lmdb': size for side in ('noisy', 'clean')}, workers, quiet)


def _folders(downloaded: Sequence[str | os.PathLike[str]], name: str) -> list[Path]:
    paths = [require_path(path, 'downloaded') for path in downloaded]
    return [path for path in paths if path.name == name] or [
        path for top in paths for path in sorted(top.rglob(name)) if path.is_dir()
    ]
