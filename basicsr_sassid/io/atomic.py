"""Atomic file writes: a kill or a full disk never leaves a partial file under its final name."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from basicsr_sassid.utils.errors import NoSpaceError, UserError, check_path

PARTIAL_PREFIX = '.sassid_partial_'  # of the temporary files; no other program's
_LONGEST_SUFFIX = 16  # bytes; the temporary name stays short beside a name of 255 bytes
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_ADVICE = {
    **dict.fromkeys(_NO_SPACE, 'Free some space, or choose another folder'),
    **dict.fromkeys((errno.EACCES, errno.EPERM), 'Choose another folder, or change its permissions'),
    errno.EROFS: 'Choose a folder on a disk that can be written',
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), 'A file is where a folder is needed: choose another name'),
    errno.EISDIR: 'A folder has this name: choose another one',
    errno.ENAMETOOLONG: 'Choose a shorter name',
}


def cannot_write(path: str | os.PathLike[str], error: OSError, what: str = 'write') -> UserError:
    """The error for the user when ``path`` cannot be written, with advice that fits its cause.

    Args:
        path: file or folder.
        error: of the system. A full disk gives a :class:`NoSpaceError`.
        what: verb of the message.
    """
    advice = _ADVICE.get(error.errno or 0, 'Choose another folder')
    kind = NoSpaceError if error.errno in _NO_SPACE else UserError
    return kind(f'cannot {what} {path}: {error.strerror or error}. {advice}; existing files are unchanged.')


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[Path, None, None]:
    """Yield a temporary path beside ``path``; rename it to ``path``, flushed to disk, when the block succeeds.

    Raises:
        UserError: the file cannot be written (no space, no permission, a name that is too long): before the block
            where that is known before. An existing file is left unchanged.
    """
    path = check_path(path, 'output')
    partial = _create_partial(path)
    try:
        yield partial
        with open(partial, 'rb') as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp allows access to the owner alone
        os.replace(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


def require_writable(path: str | os.PathLike[str]) -> None:
    """Make the folder of ``path``, and raise UserError unless a file can be made there under that name."""
    _create_partial(check_path(path, 'output')).unlink()


def _create_partial(path: Path) -> Path:
    """An empty temporary file in the folder of ``path``, which is made."""
    suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ''
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return _temporary_file(path.parent, suffix)
    except OSError as error:
        raise cannot_write(path, error) from error


def _temporary_file(folder: Path, suffix: str = '') -> Path:
    """A new empty file. Raises OSError."""
    handle, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, suffix=suffix, dir=folder)
    os.close(handle)
    return Path(name)


def remove_partial_files(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that a killed :func:`atomic_write` left directly in ``folder``; no other file."""
    for partial in Path(folder).glob(f'{PARTIAL_PREFIX}*'):
        if partial.is_file() and not partial.is_symlink():
            partial.unlink(missing_ok=True)


def write_json(content: Any, path: str | os.PathLike[str], indent: int | None = None) -> None:
    """Write JSON atomically, values of other types as strings. See :func:`atomic_write` for the errors."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=indent, default=str), encoding='utf-8')


def json_digest(content: Any, length: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:length]


def file_stamp(path: Path) -> tuple[str, int, int]:
    """Absolute path, size in bytes and modification time in ns of a file. Raises OSError."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def content_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file. Raises OSError."""
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file as an atomic write. Raises UserError if it cannot be written."""
    with atomic_write(target) as partial:
        shutil.copyfile(source, partial)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder with its parents, and return it. Raises UserError if that fails."""
    folder = check_path(path, 'output')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error, 'make') from error
    return folder


def make_writable_folder(path: str | os.PathLike[str]) -> Path:
    """:func:`make_folder`; raises UserError if no file can be made in it either."""
    folder = make_folder(path)
    try:
        _temporary_file(folder).unlink()
    except OSError as error:
        raise cannot_write(folder, error, 'write into') from error
    return folder


def save_torch(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """``torch.save`` as an atomic write. See :func:`atomic_write` for the errors."""
    with atomic_write(path) as partial, open(partial, 'wb') as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # torch's zip writer, which the failed write of the file made inconsistent
            cause = error.__context__
            raise (cause if isinstance(cause, OSError) else OSError(str(error).splitlines()[0])) from error
