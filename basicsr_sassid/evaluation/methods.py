"""The methods of a benchmark, by name: ours, any network of the registry, classical ones through their libraries."""
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import restoration
from torch import nn

from basicsr_sassid._compat import numpy_with_trapz
from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.inference.sure import optimal_blend_weight
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, noise_gain
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_choice, check_keys

Run = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 RGB to the same
_TUNED_ON = 5  # pairs, for a setting that the clean images choose
_CROPS, _CROP = 8, 256  # what the share of a mixture is estimated from


@dataclasses.dataclass
class Method:
    """A denoiser ready to use.

    Attributes:
        run: (H, W, 3) uint8 RGB to the same.
        net: its network, where it has one.
        note: a setting that was found before the first image, for the table.
    """
    run: Run
    net: nn.Module | None = None
    note: str = ''


@dataclasses.dataclass
class MethodContext:
    """What a method may look at before the first image.

    Attributes:
        pairs: (noisy, clean), uint8 RGB; only ``best_of`` looks at the clean ones.
        device: for networks.
        trained: (training, network) -> weights file; None where nothing is trained.
        noise: of all noisy images together, measured when it is first asked for.
    """
    pairs: list[tuple[np.ndarray, np.ndarray]]
    device: str
    trained: Callable[[str, str], Path] | None = None

    @functools.cached_property
    def noise(self) -> NoiseModel:
        return estimate_noise(noisy for noisy, _ in self.pairs)


def build_method(block: dict[str, Any], given: MethodContext) -> Method:
    """The method of an option block ``{type: NAME, ...}``. Raises UserError; a missing library says how to get it."""
    return METHODS[block['type']][0]({key: value for key, value in block.items() if key != 'type'}, given)


def check_method(name: str, block: object, trainings: dict[str, Any]) -> None:
    """Refuse a block that no method takes. Raises UserError."""
    where = f'methods.{name}'
    check_keys(block, block if isinstance(block, dict) else (), where, required=['type'])
    check_choice(block['type'], METHODS, f'{where}.type')
    check_keys(block, ['type', *METHODS[block['type']][1]], where)
    if block['type'] in ('denoiser', 'mixture') and ('training' in block) == ('weights' in block):
        raise UserError(f'{where}: expected weights (a file) or training (one of {", ".join(trainings) or "none"})')
    if 'inference' in block:
        InferenceConfig.parse(block['inference'], f'{where}.inference')
    if 'training' in block:
        check_choice(block['training'], trainings, f'{where}.training')


def is_oracle(block: dict[str, Any]) -> bool:
    """Whether the clean images choose a setting, which no user could do."""
    return any(isinstance(value, dict) and 'best_of' in value for value in block.values())


# ---- nothing, and the simplest ----

def _noisy(block: dict, given: MethodContext) -> Method:
    return Method(lambda image: image)


def _gaussian(block: dict, given: MethodContext) -> Method:
    return _best(block.get('sigma', 1.5), 'sigma', given, lambda sigma: lambda image: cv2.GaussianBlur(
        image, (0, 0), sigma))


def _best(setting: Any, name: str, given: MethodContext, make: Callable[[float], Run]) -> Method:
    """``setting``: a number, or ``{best_of: [...]}``: the one that suits the clean images best."""
    if not isinstance(setting, dict):
        return Method(make(setting))
    check_keys(setting, ['best_of'], name, required=['best_of'])
    some = given.pairs[::max(len(given.pairs) // _TUNED_ON, 1)]

    def error(value: float) -> float:
        run = make(value)
        return float(np.mean([np.log(((run(noisy).astype(float) - clean) ** 2).mean()) for noisy, clean in some]))
    value = min(setting['best_of'], key=error)
    return Method(make(value), note=f'best {name} {value:g}')


# ---- classical, through their libraries ----

def _opencv_nlm(block: dict, given: MethodContext) -> Method:
    """``h``: a number, ``{best_of: [...]}``, or ``sigma``: scikit-image's estimate for each image."""
    def run(image: np.ndarray, h: float | None = None) -> np.ndarray:
        h = _estimated_sigma(image) if h is None else h
        # it converts to Lab, from BGR
        return cv2.fastNlMeansDenoisingColored(np.ascontiguousarray(image[..., ::-1]), None, h, h, 7, 21)[..., ::-1]
    if block.get('h', 3) == 'sigma':
        return Method(run)
    return _best(block.get('h', 3), 'h', given, lambda h: functools.partial(run, h=h))


def _estimated_sigma(image: np.ndarray) -> float:
    return float(restoration.estimate_sigma(image.astype(float), channel_axis=-1, average_sigmas=True))


def _calibrated(function: Callable, parameters: dict[str, list]) -> Method:
    """scikit-image's J-invariant calibration (Batson and Royer, 2019), anew for each image."""
    def run(image: np.ndarray) -> np.ndarray:
        floats = image.astype(np.float64) / 255
        best = restoration.calibrate_denoiser(floats, function, parameters)
        return (best(floats).clip(0, 1) * 255).round().astype(np.uint8)
    return Method(run)


def _skimage_tv(block: dict, given: MethodContext) -> Method:
    return _calibrated(functools.partial(restoration.denoise_tv_chambolle, channel_axis=-1),
                       {'weight': block.get('weights', np.geomspace(0.005, 0.3, 8).tolist())})


def _skimage_wavelet(block: dict, given: MethodContext) -> Method:
    return _calibrated(functools.partial(restoration.denoise_wavelet, channel_axis=-1, convert2ycbcr=True,
                                         wavelet='db2', rescale_sigma=True, method='VisuShrink'),
                       {'sigma': block.get('sigmas', np.geomspace(0.005, 0.3, 8).tolist())})


def _skimage_nlm(block: dict, given: MethodContext) -> Method:
    return _calibrated(functools.partial(restoration.denoise_nl_means, channel_axis=-1, fast_mode=True, patch_size=5,
                                         patch_distance=6),
                       {'h': block.get('h', np.geomspace(0.005, 0.3, 6).tolist())})


def _bm3d(block: dict, given: MethodContext) -> Method:
    """``noise``: ``sigma`` (white, scikit-image's estimate) or ``spectrum`` (as measured here, from noisy images)."""
    try:
        import bm3d
    except ImportError as error:
        raise UserError("bm3d is not installed: pip install 'basicsr_sassid[bm3d]' (licence: non-commercial)"
                        ) from error
    check_choice(block.get('noise', 'sigma'), ['sigma', 'spectrum'], 'bm3d.noise')
    measured, adapt = given.noise if block.get('noise') == 'spectrum' else None, block.get('adapt', True)

    def run(image: np.ndarray) -> np.ndarray:
        power = _estimated_sigma(image) / 255 if measured is None else _spectrum(image, measured, adapt)
        with numpy_with_trapz():
            return (bm3d.bm3d_rgb(image / 255., power).clip(0, 1) * 255).round().astype(np.uint8)
    return Method(run)


def _spectrum(image: np.ndarray, noise: NoiseModel, adapt: bool) -> np.ndarray:
    """(H, W, 3): power spectrum of the noise in R, G, B for an image in [0, 1], as bm3d wants it scaled."""
    height, width = image.shape[:2]
    if min(height, width) <= 2 * MAX_LAG:
        raise UserError(f'bm3d with a spectrum: expected images above {2 * MAX_LAG} pixels a side, got {image.shape}')
    level = noise_gain(image, noise) if adapt else np.ones(3)
    variance = (noise.sigma_at(local_intensity(image.astype(np.float32))) ** 2).mean(axis=(0, 1)) * level ** 2
    covariance = np.zeros((3, height, width))
    covariance[:, :2 * MAX_LAG + 1, :2 * MAX_LAG + 1] = noise.cross_correlation[range(3), range(3)]
    spectrum = np.fft.fft2(np.roll(covariance, (-MAX_LAG, -MAX_LAG), axis=(1, 2))).real.clip(0)
    return (spectrum * (variance / 255 ** 2)[:, None, None] * height * width).transpose(1, 2, 0)


# ---- ours, and any network ----

def _denoiser(block: dict, given: MethodContext) -> Method:
    """``weights``, or ``training`` and ``net`` (``g``, ``bnn``, ``lan``); else as Denoiser's arguments."""
    denoise = Denoiser(_weights(block, given), given.device, **{
        key: value for key, value in block.items() if key not in ('weights', 'training', 'net')})
    return Method(denoise, denoise.net)


def _weights(block: dict, given: MethodContext) -> str | Path:
    return block['weights'] if 'weights' in block else given.trained(block['training'], block.get('net', 'g'))


def _spectral(block: dict, given: MethodContext) -> Method:
    return Method(SpectralDenoiser(given.noise, **block))


def _mixture(block: dict, given: MethodContext) -> Method:
    """The student and the instant denoiser, in the proportion that the noisy images say: what `sassid clean` writes."""
    classical = SpectralDenoiser(given.noise)
    student = Denoiser(_weights(block, given), given.device)
    some = given.pairs[::max(len(given.pairs) // _CROPS, 1)]
    crops = [noisy[:_CROP, :_CROP].astype(np.float32) / 255 for noisy, _ in some]
    share = optimal_blend_weight(classical, student, crops, given.noise)[0]
    return Method(BlendedDenoiser(classical, student, share), student.net, f'{share:.0%} student')


_DENOISER_KEYS = ('weights', 'training', 'net', 'tile', 'overlap', 'self_ensemble', 'precision', 'key', 'network',
                  'img_range', 'inference')
# type -> builder, keys of its option block
METHODS: dict[str, tuple[Callable[[dict, MethodContext], Method], tuple[str, ...]]] = {
    'noisy': (_noisy, ()), 'gaussian': (_gaussian, ('sigma',)),
    'opencv_nlm': (_opencv_nlm, ('h',)), 'skimage_nlm': (_skimage_nlm, ('h',)),
    'skimage_tv': (_skimage_tv, ('weights',)), 'skimage_wavelet': (_skimage_wavelet, ('sigmas',)),
    'bm3d': (_bm3d, ('noise', 'adapt')), 'denoiser': (_denoiser, _DENOISER_KEYS),
    'spectral': (_spectral, ('adapt', 'strength')), 'mixture': (_mixture, ('weights', 'training')),
}
