"""Names that become files and folders: those of runs, datasets and images never lead out of their folder."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator

_MAX_BYTES = 200  # of the 255 of a file system, which also hold suffixes such as _archived_<time>


def stays_inside(name: str) -> bool:
    """Whether ``name``, appended to a folder, is a path below that folder: neither absolute nor with a part ``..``."""
    parts = re.split(r'[/\\]', name)
    return '\0' not in name and not {'', '.', '..'} & set(parts) and not re.match(r'[A-Za-z]:', name)


def is_file_name(name: str) -> bool:
    """Whether ``name`` is a single path component that any file system and terminal takes."""
    return (
        name.isprintable()
        and stays_inside(name)
        and not set('/\\') & set(name)
        and name.strip() == name
        and len(name.encode()) <= _MAX_BYTES
    )


def _checked(name: str) -> str:
    if not is_file_name(name):
        raise ValueError(
            f'expected the name of a file or folder (no /, \\, .. or control characters, at most {_MAX_BYTES} bytes), '
            f'got {name!r}'
        )
    return name


FileName: TypeAlias = Annotated[str, AfterValidator(_checked)]  # of an option
