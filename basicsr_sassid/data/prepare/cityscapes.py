"""Cityscapes (Cordts et al., CVPR 2016): clean street scenes, to which training adds synthetic noise."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from basicsr_sassid.data.prepare.folder import photo_source
from basicsr_sassid.data.prepare.pairs import check_count, find_files, write_all
from basicsr_sassid.data.prepare.writer import Prepared, Source, check_cutting, key_of
from basicsr_sassid.utils.errors import UserError, require_path

SPLITS = {'train': 2975, 'val': 500}  # images; no LMDB of `test` is written: denoisers do not use it
SIZE = 1024, 2048  # height, width
_FOLDER, _ENDING = 'leftImg8bit', '_leftImg8bit'


def prepare_cityscapes(
    downloaded: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    incomplete: bool = False,
    workers: int | None = None,
    quiet: bool = False,
) -> dict[str, Prepared | None]:
    """Write the images of ``leftImg8bit`` as ``Cityscapes/{train,val}.lmdb``, uncut: large crops need whole frames.

    Args:
        downloaded: ``leftImg8bit``, of the unpacked ``leftImg8bit_trainvaltest.zip``, or a folder above it. Its files
            are ``{train,val}/<city>/<city>_<sequence>_<frame>_leftImg8bit.png``; a key is
            ``<city>_<sequence>_<frame>``. A split without files is left out.
        output, incomplete: see :func:`prepare_sidd`.

    Returns:
        LMDB -> what was written; None where it existed.

    Raises:
        UserError: neither split exists, a count or size that is not as published, a damaged file.
    """
    check_cutting(0, None, workers, 0)
    folders = _find_folders(downloaded)
    layout: dict[str, Callable[[], list[Source]]] = {}
    for split, expected in SPLITS.items():
        files = find_files([folder / split for folder in folders if (folder / split).is_dir()], rf'.+{_ENDING}\.png')
        if files:
            check_count(len(files), expected, f'Cityscapes, {_FOLDER}/{split}', incomplete)
            layout[f'Cityscapes/{split}.lmdb'] = functools.partial(_sources, files)
    if not layout:
        raise UserError(
            f'prepare cityscapes: no {_FOLDER}/{{train,val}}/<city>/*{_ENDING}.png in '
            f'{", ".join(map(str, downloaded))} or below.{_zip_hint(downloaded)}'
        )
    return write_all(layout, output, 0, workers, quiet)


def _find_folders(downloaded: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The folders ``leftImg8bit``; ``leftImg8bit_sequence``, with more frames of the same names, is none of them."""
    folders: set[Path] = set()  # one that is given twice counts once
    for entry in downloaded:
        path = require_path(entry, 'downloaded')
        candidates = [path] if path.absolute().name == _FOLDER else path.rglob(_FOLDER)
        folders |= {folder.resolve() for folder in candidates if folder.is_dir()}
    return sorted(folders)


def _zip_hint(downloaded: Sequence[str | os.PathLike[str]]) -> str:
    """Sentence on the first archive of the dataset that was given; empty if there is none."""
    archives = find_files(downloaded, rf'{_FOLDER}_.*\.zip')
    archives += [Path(path) for path in downloaded if Path(path).suffix.lower() == '.zip']  # renamed, given by itself
    return f' {archives[0]} is an archive: unpack it first.' if archives else ''


def _sources(files: list[Path]) -> list[Source]:
    """The images in the order of their keys. Raises UserError for a size that is not as published."""
    sources = [photo_source(file, key_of(file.stem.removesuffix(_ENDING))) for file in files]
    for source in sources:
        if source.size not in (SIZE, (0, 0)):  # (0, 0): unreadable, reported with the reason when it is read
            raise UserError(
                f'{source.name}: expected {SIZE[0]}x{SIZE[1]} pixels, got {source.size[0]}x{source.size[1]}. '
                'Download it again.'
            )
    return sorted(sources, key=lambda source: source.key)
