"""Functions that the published datasets share: find and count files, pair noisy with clean, write one LMDB each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from basicsr_sassid.data.prepare.folder import photo_source
from basicsr_sassid.data.prepare.writer import Prepared, Source, key_of, write_lmdb
from basicsr_sassid.utils.errors import UserError, expand_path, require_path

Layout = Mapping[str, Callable[[], list[Source]]]  # LMDB's name below the output folder -> its images


def write_all(
    layout: Layout, output: str | os.PathLike[str], size: Mapping[str, int] | int, workers: int | None, quiet: bool
) -> dict[str, Prepared | None]:
    """Write every LMDB of a layout that does not exist yet; the result is None for those that exist."""
    result: dict[str, Prepared | None] = {}
    for name, sources in layout.items():
        path = expand_path(output, '-o') / name
        if not quiet:
            print(f'{path}' + (': is there already' if path.exists() else ''), flush=True)
        side = size if isinstance(size, int) else size.get(name, 0)
        result[name] = None if path.exists() else write_lmdb(sources(), path, side, workers=workers, quiet=quiet)
    return result


def check_count(count: int, expected: int, what: str, incomplete: bool) -> None:
    """Raise UserError unless ``count`` is the published number, or smaller with ``incomplete``."""
    if count > expected:
        raise UserError(f'{what}: {expected} were published, found {count}. Give one copy alone.')
    if count == 0 or (count != expected and not incomplete):
        raise UserError(
            f'{what}: expected {expected}, found {count}. Download the rest'
            + ('.' if count == 0 else ', or give --incomplete.')
        )


def find_files(folders: Sequence[str | os.PathLike[str]], pattern: str) -> list[Path]:
    """Files below the folders, or the files given, whose whole name matches, upper case or lower; sorted."""
    files: list[Path] = []
    for entry in folders:
        path = require_path(entry, 'downloaded')
        candidates = path.rglob('*') if path.is_dir() else [path]
        files += [
            file
            for file in candidates
            if re.fullmatch(pattern, file.name, re.IGNORECASE) and not file.name.startswith('.') and file.is_file()
        ]
    return sorted({file.resolve() for file in files})


def real_and_mean(
    folders: Sequence[str | os.PathLike[str]],
    extension: str,
    side: int | None,
    expected: int,
    incomplete: bool,
    what: str,
) -> tuple[list[Source], list[Source]]:
    """(noisy, clean) of files ``*_real.*`` and ``*_mean.*``.

    Raises:
        UserError: the number is not ``expected``, one of a pair is missing, or an image is not ``side`` pixels square.
    """
    noisy, clean = (
        {
            file.parent / file.name[: file.name.lower().rindex(f'_{ending}')]: file
            for file in find_files(folders, rf'.+_{ending}\.{extension}')
        }
        for ending in ('real', 'mean')
    )
    for files, partners, ending in ((noisy, clean, 'mean'), (clean, noisy, 'real')):
        alone = next(iter(files.keys() - partners.keys()), None)
        if alone is not None:
            raise UserError(f'{what}: {files[alone]} has no *_{ending} beside it. Download it again.')
    check_count(len(noisy), expected, what, incomplete)
    names = sorted(noisy)
    noisy_sources, clean_sources = (
        [photo_source(files[name], key_of(name.name)) for name in names] for files in (noisy, clean)
    )
    for source, reference in zip(noisy_sources, clean_sources):
        if source.size != reference.size or (side and source.size != (side, side)):
            raise UserError(
                f'{source.name}: expected '
                + (f'{side}x{side} pixels' if side else f'the size of its mean, {reference.size}')
                + f', got {source.size}. Download it again.'
            )
    return noisy_sources, clean_sources
