"""Atomic file writes: a kill or a full disk never leaves a partial file under its final name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from basicsr_sassid.utils.errors import UserError


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Yield a temporary path beside ``path``; rename it to ``path``, flushed to disk, when the block succeeds.

    Raises:
        UserError: the file cannot be written (no space, no permission). An existing file is left unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix='.tmp_', suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(
            f'cannot write {path}: {error.strerror or error}. Free some space, or choose another folder.'
        ) from error
    partial = Path(name)
    try:
        yield partial
        with open(partial, 'rb') as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp allows access to the owner alone
        os.replace(partial, path)
    except OSError as error:
        raise UserError(
            f'cannot write {path}: {error.strerror or error}. Free some space, or choose another folder; '
            'existing files are unchanged.'
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def check_can_write(path: Path, where: str) -> None:
    """Raise UserError if a file cannot be written: for results that are only written after hours of work.

    Args:
        path: of the file; its folder is made.
        where: option that names it, for the error.
    """
    if path.is_dir():
        raise UserError(f'{where}: {path} is a folder. Give the name of a file.')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f'{where}: cannot write {path}: {error.strerror or error}. Choose another folder.') from error


def write_json(content: Any, path: str | os.PathLike[str], indent: int | None = None) -> None:
    """Write JSON atomically, values of other types as strings. See :func:`atomic_write` for the errors."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, default=str), encoding='utf-8')


def json_digest(content: Any, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:length]


def content_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file. Raises OSError."""
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file as an atomic write. Raises UserError if it cannot be written."""
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder with its parents, and return it. Raises UserError if that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make {path}: {error.strerror}. Start from another folder.') from error
    return Path(path)


def save_torch(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """``torch.save`` as an atomic write. See :func:`atomic_write` for the errors."""
    with atomic_write(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk in one
            raise OSError(str(error).splitlines()[0]) from error
