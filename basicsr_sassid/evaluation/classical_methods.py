"""Classical denoisers through their libraries: OpenCV, scikit-image, bm3d."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from skimage import restoration

from basicsr_sassid._compat import numpy_with_trapz
from basicsr_sassid.evaluation.context import Method, MethodContext, Run
from basicsr_sassid.evaluation.schema import (
    BestOf,
    BM3DOptions,
    GaussianOptions,
    NoisyOptions,
    OpenCVNLMOptions,
    SkimageNLMOptions,
    SkimageTVOptions,
    SkimageWaveletOptions,
)
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, noise_gain
from basicsr_sassid.noise.spectrum import correlation_spectrum, rgb_correlation
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import evenly_spaced

_MAX_TUNING_PAIRS = 5  # for a setting that the clean references choose


def noisy(options: NoisyOptions, context: MethodContext) -> Method:
    """The noisy image itself."""
    return Method(lambda image: image)


def gaussian(options: GaussianOptions, context: MethodContext) -> Method:
    """Gaussian blur."""
    return _with_setting(
        options.sigma, 'sigma', context, lambda sigma: lambda image: cv2.GaussianBlur(image, (0, 0), sigma)
    )


def opencv_nlm(options: OpenCVNLMOptions, context: MethodContext) -> Method:
    """OpenCV's non-local means of colour images."""

    def run(image: np.ndarray, h: float | None = None) -> np.ndarray:
        h = _estimated_sigma(image) if h is None else h
        # it converts to Lab, from BGR
        return cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(image[..., ::-1]), None, h, h, 7, 21)[..., ::-1]

    if options.h == 'sigma':
        return Method(run)
    return _with_setting(options.h, 'h', context, lambda h: functools.partial(run, h=h))


def skimage_tv(options: SkimageTVOptions, context: MethodContext) -> Method:
    """scikit-image's total variation, calibrated."""
    return _calibrated(
        functools.partial(restoration.denoise_tv_chambolle, channel_axis=-1), {'weight': options.weights}
    )


def skimage_wavelet(options: SkimageWaveletOptions, context: MethodContext) -> Method:
    """scikit-image's wavelets, calibrated."""
    return _calibrated(
        functools.partial(
            restoration.denoise_wavelet,
            channel_axis=-1,
            convert2ycbcr=True,
            wavelet='db2',
            rescale_sigma=True,
            method='VisuShrink',
        ),
        {'sigma': options.sigmas},
    )


def skimage_nlm(options: SkimageNLMOptions, context: MethodContext) -> Method:
    """scikit-image's non-local means, calibrated."""
    return _calibrated(
        functools.partial(
            restoration.denoise_nl_means, channel_axis=-1, fast_mode=True, patch_size=5, patch_distance=6
        ),
        {'h': options.h},
    )


def bm3d(options: BM3DOptions, context: MethodContext) -> Method:
    """BM3D with the noise taken for white, or with its measured spectrum. Raises UserError if bm3d is missing."""
    try:
        import bm3d as library  # an extra: its licence is non-commercial
    except ImportError as error:
        raise UserError(
            "bm3d is not installed: pip install 'basicsr_sassid[bm3d]' (licence: non-commercial)"
        ) from error
    noise = context.noise if options.noise == 'spectrum' else None

    def run(image: np.ndarray) -> np.ndarray:
        power = _estimated_sigma(image) / 255 if noise is None else _power_spectrum(image, noise, options.adapt)
        with numpy_with_trapz():
            return (library.bm3d_rgb(image / 255.0, power).clip(0, 1) * 255).round().astype(np.uint8)

    return Method(run)


def _with_setting(setting: float | BestOf, name: str, context: MethodContext, make: Callable[[float], Run]) -> Method:
    """The method with its setting, or with the candidate whose results are nearest to the clean references."""
    if not isinstance(setting, BestOf):
        return Method(make(setting))
    pairs = evenly_spaced(context.pairs, _MAX_TUNING_PAIRS)

    def log_error(value: float) -> float:
        run = make(value)
        return float(np.mean([np.log(((run(noisy).astype(float) - clean) ** 2).mean()) for noisy, clean in pairs]))

    value = min(setting.best_of, key=log_error)
    return Method(make(value), note=f'best {name} {value:g}')


def _estimated_sigma(image: np.ndarray) -> float:
    return float(restoration.estimate_sigma(image.astype(float), channel_axis=-1, average_sigmas=True))


def _calibrated(function: Callable[..., np.ndarray], parameters: dict[str, list[Any]]) -> Method:
    """scikit-image's J-invariant calibration (Batson and Royer, 2019), anew for each image."""

    def run(image: np.ndarray) -> np.ndarray:
        floats = image.astype(np.float64) / 255
        best: Any = restoration.calibrate_denoiser(floats, function, parameters)
        return (best(floats).clip(0, 1) * 255).round().astype(np.uint8)

    return Method(run)


def _power_spectrum(image: np.ndarray, noise: NoiseModel, adapt: bool) -> np.ndarray:
    """(H, W, 3): power spectrum of the noise in R, G, B for an image in [0, 1], as bm3d wants it scaled."""
    height, width = image.shape[:2]
    if min(height, width) <= 2 * MAX_LAG:
        raise UserError(f'bm3d with a spectrum: expected images above {2 * MAX_LAG} pixels a side, got {image.shape}')
    gain = noise_gain(image, noise) if adapt else np.ones(3)
    variance = (noise.sigma_at(local_intensity(image.astype(np.float32))) ** 2).mean(axis=(0, 1)) * gain**2
    spectrum = correlation_spectrum(rgb_correlation(noise), height, width).real.clip(0)
    return (spectrum * (variance / 255**2)[:, None, None] * height * width).transpose(1, 2, 0)
