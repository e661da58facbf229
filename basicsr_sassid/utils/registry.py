"""BasicSR's auto-scan: a module whose name ends in the folder's suffix registers what it holds."""
from __future__ import annotations

import importlib
from pathlib import Path


def import_registering_modules(package: str, folder: str, suffix: str) -> None:
    """Import every module of ``folder`` (a package's ``__file__`` or path) named ``*_<suffix>.py``, in order."""
    for path in sorted(Path(folder).parent.glob(f'*_{suffix}.py')):
        importlib.import_module(f'{package}.{path.stem}')
