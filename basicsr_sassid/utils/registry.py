"""BasicSR's auto-scan: import the modules whose names end in the folder's suffix, which register their classes."""

from __future__ import annotations

import importlib
from pathlib import Path


def import_registering_modules(package: str, folder: str, suffix: str) -> None:
    """Import every module of ``folder`` (a package's ``__file__`` or path) named ``*_<suffix>.py``, in order."""
    for path in sorted(Path(folder).parent.glob(f'*_{suffix}.py')):
        importlib.import_module(f'{package}.{path.stem}')
