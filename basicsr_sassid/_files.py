"""Files that are whole or not there: a kill or a full disk never leaves half of one under its name."""
from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from basicsr_sassid._checks import UserError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it there, flushed to disk, if the block ends well.

    Raises:
        UserError: it can't be written (no space, no permission); what stood under ``path`` stays as it was.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix='.tmp_', suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}. Free some space, or choose another folder.'
                        ) from error
    partial = Path(name)
    try:
        yield partial
        with open(partial, 'rb') as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)  # mkstemp's is for its owner only
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}. Free some space, or choose another folder; '
                        'what was saved before is untouched.') from error
    finally:
        partial.unlink(missing_ok=True)


def content_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file. Raises OSError."""
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()


def make_folder(path: str | os.PathLike) -> Path:
    """A folder with its parents. Raises UserError if it can't be made."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make {path}: {error.strerror}. Start from another folder.') from error
    return Path(path)


def save_torch(content: dict, path: str | os.PathLike) -> None:
    """torch.save, whole or not at all. See :func:`written_whole` for the errors."""
    with written_whole(path) as partial:
        try:
            torch.save(content, partial)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a full disk in one
            raise OSError(str(error).splitlines()[0]) from error
