"""What the published datasets share: files found and counted, noisy and clean of equal names, an LMDB a side."""
from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from basicsr_sassid.data.prepare.folder import photo_source
from basicsr_sassid.data.prepare.writer import Prepared, Source, key_of, write_lmdb
from basicsr_sassid.utils.errors import UserError, require_path

Layout = Mapping[str, Callable[[], list[Source]]]  # LMDB's name below the output folder -> its images


def write_all(layout: Layout, output: str | os.PathLike, size: Mapping[str, int] | int, workers: int | None,
              quiet: bool) -> dict[str, Prepared | None]:
    """Every LMDB of a layout that is not there yet; None for those that are."""
    result: dict[str, Prepared | None] = {}
    for name, sources in layout.items():
        path = Path(output).expanduser() / name
        if not quiet:
            print(f'{path}' + (': is there already' if path.exists() else ''), flush=True)
        side = size if isinstance(size, int) else size.get(name, 0)
        result[name] = None if path.exists() else write_lmdb(sources(), path, side, workers=workers, quiet=quiet)
    return result


def check_count(found: int, expected: int, what: str, incomplete: bool) -> None:
    """Raise UserError unless as many are there as were published, or fewer are ``incomplete``."""
    if found > expected:
        raise UserError(f'{what}: {expected} were published, found {found}. Give one copy alone.')
    if found == 0 or (found != expected and not incomplete):
        raise UserError(f'{what}: expected {expected}, found {found}. Download the rest'
                        + ('.' if found == 0 else ', or give --incomplete.'))


def find_files(folders: Sequence[str | os.PathLike], pattern: str) -> list[Path]:
    """Files below the folders, or the files given, whose whole name matches, upper case or lower; sorted."""
    found: list[Path] = []
    for given in folders:
        path = require_path(given, 'downloaded')
        candidates = path.rglob('*') if path.is_dir() else [path]
        found += [file for file in candidates if re.fullmatch(pattern, file.name, re.IGNORECASE)
                  and not file.name.startswith('.') and file.is_file()]
    return sorted({file.resolve() for file in found})


def real_and_mean(folders: Sequence[str | os.PathLike], extension: str, side: int | None, expected: int,
                  incomplete: bool, what: str) -> tuple[list[Source], list[Source]]:
    """(noisy, clean) of files ``*_real.*`` and ``*_mean.*``.

    Raises:
        UserError: the number is not ``expected``, one of a pair is missing, or an image is not ``side`` pixels square.
    """
    sides = []
    for ending in ('real', 'mean'):
        files = find_files(folders, rf'.+_{ending}\.{extension}')
        sides.append({file.parent / file.name[:file.name.lower().rindex(f'_{ending}')]: file for file in files})
    noisy, clean = sides
    for one, other, ending in ((noisy, clean, 'mean'), (clean, noisy, 'real')):
        alone = next(iter(one.keys() - other.keys()), None)
        if alone is not None:
            raise UserError(f'{what}: {one[alone]} has no *_{ending} beside it. Download it again.')
    check_count(len(noisy), expected, what, incomplete)
    names = sorted(noisy)
    result = tuple([photo_source(files[name], key_of(name.name)) for name in names] for files in sides)
    for sources in zip(*result):
        if sources[0].size != sources[1].size or (side and sources[0].size != (side, side)):
            raise UserError(f'{sources[0].name}: expected ' + (f'{side}x{side} pixels' if side else 'the size of its '
                            f'mean, {sources[1].size}') + f', got {sources[0].size}. Download it again.')
    return result
