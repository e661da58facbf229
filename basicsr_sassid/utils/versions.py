"""Versions that a result depends on, for reports, model cards and benchmark files."""

from __future__ import annotations

import importlib.metadata
import platform

from basicsr_sassid.utils.version import __version__

_PACKAGES = (
    'basicsr',
    'torch',
    'torchvision',
    'numpy',
    'scipy',
    'scikit-image',
    'opencv-python',
    'PyWavelets',
    'bm3d',
    'pyiqa',
)


def versions() -> dict[str, str]:
    """Name -> version of this package, its main dependencies, ``python`` and ``machine`` (system and processor type).

    Packages that are not installed are left out.
    """
    found = {'basicsr_sassid': __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, 'python': platform.python_version(), 'machine': f'{platform.system()} {platform.machine()}'}
