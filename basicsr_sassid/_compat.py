"""The only shims for stock PyPI ``basicsr==1.4.2`` and bm3d on today's stack. Imported before anything of basicsr."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

_MODULE = 'torchvision.transforms.functional_tensor'


def _alias_functional_tensor() -> None:
    """basicsr/data/degradations.py imports a module that torchvision dropped in 0.17.

    Needless from a basicsr release that holds the fix of its master branch (none on PyPI by November 2026).
    """
    if _MODULE in sys.modules or importlib.util.find_spec(_MODULE) is not None:
        return
    from torchvision.transforms.functional import rgb_to_grayscale

    module = types.ModuleType(_MODULE)
    vars(module)['rgb_to_grayscale'] = rgb_to_grayscale
    sys.modules[_MODULE] = module


def _share_lmdb_environments() -> None:
    """lmdb >= 2 refuses to open one environment twice in a process, which basicsr does as soon as two datasets, or
    lq and gt, lie in the same LMDB. Every path is opened once per process and shared.

    Needless from a basicsr release whose LmdbBackend does so itself (none by November 2026).
    """
    from basicsr.utils.file_client import FileClient, LmdbBackend

    from basicsr_sassid.io.lmdb_environments import open_shared

    class SharedLmdbBackend(LmdbBackend):
        def __init__(
            self,
            db_paths: Any,
            client_keys: Any = 'default',
            readonly: bool = True,
            lock: bool = False,
            readahead: bool = False,
            **kwargs: Any,
        ) -> None:
            db_paths = db_paths if isinstance(db_paths, list) else [db_paths]
            client_keys = client_keys if isinstance(client_keys, list) else [client_keys]
            self.db_paths = [str(path) for path in db_paths]
            settings = {'readonly': readonly, 'lock': lock, 'readahead': readahead, **kwargs}
            self._client = {
                client: open_shared(path, **settings) for client, path in zip(client_keys, self.db_paths, strict=True)
            }

    FileClient._backends['lmdb'] = SharedLmdbBackend


@contextlib.contextmanager
def numpy_with_trapz() -> Iterator[None]:
    """bm3d 4.0.3 integrates a power spectrum with np.trapz, which numpy dropped in 2.4.

    Needless from a bm3d release that calls np.trapezoid (none by November 2026).
    """
    name = 'trapz'
    if hasattr(np, name):
        yield
        return
    setattr(np, name, np.trapezoid)
    try:
        yield
    finally:
        delattr(np, name)


_alias_functional_tensor()
_share_lmdb_environments()
