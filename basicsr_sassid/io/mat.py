"""Arrays from MATLAB's files: version 5 through SciPy, 7.3 (HDF5) through h5py."""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.io

from basicsr_sassid.utils.errors import UserError, require_path


def read_mat(path: str | os.PathLike, key: str) -> np.ndarray:
    """A variable of a version 5 file, with MATLAB's axes. Raises UserError: no such file or variable, or damaged."""
    path = require_path(path, 'downloaded')
    try:
        content = scipy.io.loadmat(path, variable_names=[key])
    except Exception as error:  # SciPy's reader raises anything on damaged data: zlib.error, struct.error, ValueError
        raise UserError(f'cannot read {path}: {error}. Download it again.') from error
    if key not in content:
        raise UserError(f'{path}: expected the variable {key}, found {_names(path)}')
    return content[key]


def _names(path: os.PathLike) -> str:
    return ', '.join(name for name, _, _ in scipy.io.whosmat(path)) or 'none'


@contextlib.contextmanager
def open_mat73(path: str | os.PathLike) -> Iterator[Any]:
    """A version 7.3 file as h5py.File: axes are reversed there. Raises UserError: not there, damaged, or no h5py."""
    try:
        import h5py
    except ImportError as error:
        raise UserError("DND's files need h5py: pip install 'basicsr_sassid[dnd]'") from error
    path = require_path(path, 'downloaded')
    try:
        file = h5py.File(path, 'r')
    except OSError as error:
        raise UserError(f'cannot read {path}: {error}. Download it again.') from error
    with file:
        try:
            yield file
        except KeyError as error:
            raise UserError(f'{path}: {error.args[0]}; found {", ".join(file)}. Download it again.') from error
        except OSError as error:  # a damaged chunk is found when it is read
            raise UserError(f'cannot read {path}: {error}. Download it again.') from error
