"""CC (Nam et al., CVPR 2016): fifteen crops of photographs by three cameras, and the means of many shots, PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence

from basicsr_sassid.data.prepare.pairs import real_and_mean, write_all
from basicsr_sassid.data.prepare.writer import Prepared, check_cutting

CROPS, SIDE = 15, 512


def prepare_cc(
    downloaded: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    size: int = 0,
    incomplete: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Prepared | None]:
    """Write ``*_real.png`` and ``*_mean.png`` as ``CC/{noisy,clean}.lmdb``.

    Args:
        downloaded: the folder with the files.
        output, incomplete: see :func:`prepare_sidd`.
        size: side of sub-images in pixels; 0: each crop is one.

    Raises:
        UserError: a count or size that is not as published, one of a pair missing.
    """
    check_cutting(size, None, workers, 0)
    noisy, clean = real_and_mean(downloaded, 'png', SIDE, CROPS, incomplete, 'CC')
    return write_all({'CC/noisy.lmdb': lambda: noisy, 'CC/clean.lmdb': lambda: clean}, output, size, workers, quiet)
