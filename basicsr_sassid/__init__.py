"""Self-supervised denoising of real photographs, as a plugin of BasicSR: importing it registers its parts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from basicsr_sassid import _compat  # isort: skip  # before anything of basicsr
from basicsr_sassid import archs, data, losses, metrics, models
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.io.checkpoint import load_weights
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.utils.version import __version__

__all__ = [
    'Denoiser',
    'NoiseModel',
    'SpectralDenoiser',
    '__version__',
    '_compat',
    'archs',
    'clean_photos',
    'data',
    'estimate_noise',
    'fit_denoiser',
    'load_weights',
    'losses',
    'metrics',
    'models',
    'train_on',
]

if TYPE_CHECKING:
    from basicsr_sassid.pipeline.api import clean_photos, fit_denoiser

    train_on = fit_denoiser

Noise = NoiseModel  # name of the first version
_LAZY = {'clean_photos': 'clean_photos', 'fit_denoiser': 'fit_denoiser', 'train_on': 'fit_denoiser'}  # old -> new name


def __getattr__(name: str) -> Any:
    """The functions of ``sassid clean``, loaded on first use: BasicSR's users of the parts need none of it."""
    if name in _LAZY:
        return getattr(importlib.import_module('basicsr_sassid.pipeline.api'), _LAZY[name])
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
