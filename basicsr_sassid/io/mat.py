"""Read arrays from MATLAB files: version 5 through SciPy, 7.3 (HDF5) through h5py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from typing import Any, cast

import numpy as np
from scipy.io import loadmat, whosmat  # pyright: ignore

from basicsr_sassid.utils.errors import UserError, require_path


def read_mat(path: str | os.PathLike[str], key: str) -> np.ndarray:
    """Read a variable of a version 5 file, with MATLAB's axes. Raises UserError if it is missing or damaged."""
    path = require_path(path, 'downloaded')
    try:
        content = cast('dict[str, Any]', loadmat(path, variable_names=[key]))
    except Exception as error:  # SciPy's reader raises anything on damaged data: zlib.error, struct.error, ValueError
        raise UserError(f'cannot read {path}: {error}. Download it again.') from error
    if key not in content:
        raise UserError(f'{path}: expected the variable {key}, found {_names(path)}')
    return content[key]


def _names(path: os.PathLike[str]) -> str:
    variables = cast('list[tuple[str, Any, str]]', whosmat(path))
    return ', '.join(name for name, _, _ in variables) or 'none'


@contextlib.contextmanager
def open_mat73(path: str | os.PathLike[str]) -> Generator[Any, None, None]:
    """Open a version 7.3 file as h5py.File, with axes reversed. Raises UserError: no such file, damaged, or no h5py."""
    try:
        import h5py  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise UserError("DND's files need h5py: pip install 'basicsr_sassid[dnd]'") from error
    path = require_path(path, 'downloaded')
    try:
        file: Any = h5py.File(path, 'r')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error}. Download it again.') from error
    with file:
        try:
            yield file
        except KeyError as error:
            raise UserError(f'{path}: {error.args[0]}; found {", ".join(file)}. Download it again.') from error
        except OSError as error:  # a damaged chunk is found when it is read
            raise UserError(f'cannot read {path}: {error}. Download it again.') from error
