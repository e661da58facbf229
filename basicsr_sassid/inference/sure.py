"""How far a denoiser's result is from the clean image, estimated from the noisy one alone."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, noise_gain
from basicsr_sassid.noise.synthetic import sample_noise
from basicsr_sassid.ops.arrays import is_grey

_STEP = 0.1  # of the noise's own strength
_OVERRATED, _OVERRATED_JPEG = 0.05, 0.4  # of the noise's variance: what a network's estimated risk has too much

Denoise = Callable[[np.ndarray], np.ndarray]


def monte_carlo_sure(denoise: Denoise, images: Iterable[np.ndarray], noise: NoiseModel,
                   seed: int = 0) -> float:
    r"""Estimate the mean squared error of a denoiser without clean images: Stein's unbiased risk estimate.

    .. math:: \mathrm{mean}\,|f(y) - y|^2 - \sigma^2 + 2\,\mathrm{mean}\,n' (f(y + \epsilon n') - f(y)) / \epsilon

    for one draw of n' with the measured covariance of the noise (Ramani et al., 2008, with correlated noise). The
    variance that is taken off is the same for every denoiser: an error in it shifts all estimates alike. So they rank
    denoisers; they do not say how many decibels one reaches. Rankings are paired: give the same images and seed.

    Args:
        denoise: (H, W, 3) float32 in [0, 1] to the same.
        images: noisy, (H, W, 3) float32 in [0, 1].
        noise: of :func:`estimate_noise` on images of this kind.
        seed: of the draw.

    Returns:
        Estimated mean squared error, grey levels squared; it may come out below zero.
    """
    return float(np.mean([_risk(_probed(denoise, image, _probe(image, noise, (seed, number))), image)
                          for number, image in enumerate(images)]))


def optimal_blend_weight(first: Denoise, second: Denoise, images: Iterable[np.ndarray], noise: NoiseModel, seed: int = 0,
                 risk_bias: float | None = None) -> tuple[float, dict[str, float]]:
    """The share of a trained network, ``second``, in its mean with a denoiser that rests on ``noise``, ``first``.

    The share is the one for which :func:`monte_carlo_sure` is least, once the network's risk has been brought down by
    the part of the noise's variance by which it is risk_bias: for what the measurement has missed of the noise (the
    first denoiser leaves it in, and the estimate takes it for signal), and for what an L1 loss makes of skewed noise.

    Args:
        first, second, images, noise, seed: see :func:`monte_carlo_sure`.
        risk_bias: that part. By default as it was found with clean images, once (docs/noise.md): 0.05, or 0.4 where
            the noise is correlated beyond the blind size that is recommended, as that of cameras' JPEGs.

    Returns:
        The share, 0 to 1, and the estimates: ``noisy``, ``first``, ``second``, ``mixture``. Arguments as there.
    """
    cross, square, risks = [], [], []
    for number, image in enumerate(images):
        probe = _probe(image, noise, (seed, number))
        results = [_probed(denoise, image, probe) for denoise in (first, second)]
        between = results[1].result - results[0].result
        left = results[0].result - image * np.float32(255)
        cross.append((left * between).mean() + results[1].divergence - results[0].divergence)
        square.append((between ** 2).mean())
        risks.append([probe.variance, *(_risk(result, image) for result in results)])
    cross, square = np.mean(cross), max(np.mean(square), 1e-12)
    noisy, *both = np.mean(risks, axis=0).tolist()
    if risk_bias is None:
        risk_bias = _OVERRATED_JPEG if noise.correlation_length() > noise.blind_size() else _OVERRATED
    share = float(np.clip((risk_bias * noisy / 2 - cross) / square, 0, 1))
    return share, {'noisy': noisy, 'first': both[0], 'second': both[1],
                   'mixture': float(both[0] + 2 * share * cross + share ** 2 * square)}


@dataclasses.dataclass(frozen=True)
class _Probe:
    direction: np.ndarray
    variance: float


@dataclasses.dataclass(frozen=True)
class _Probed:
    result: np.ndarray
    divergence: float
    variance: float


def _probe(image: np.ndarray, noise: NoiseModel, seed: tuple[int, int]) -> _Probe:
    intensity = local_intensity(image * np.float32(255))
    level = noise_gain(image, noise)
    noise = noise.as_grey() if is_grey(image) else noise
    return _Probe(level * sample_noise(noise, intensity, np.random.default_rng(seed)),
                  float(((level * noise.sigma_at(intensity)) ** 2).mean()))


def _probed(denoise: Denoise, image: np.ndarray, probe: _Probe) -> _Probed:
    result = denoise(image) * np.float32(255)
    moved = denoise(image + probe.direction * np.float32(_STEP / 255)) * np.float32(255)
    return _Probed(result, float((probe.direction * (moved - result)).mean() / _STEP), probe.variance)


def _risk(probed: _Probed, image: np.ndarray) -> float:
    error = ((probed.result - image * np.float32(255)) ** 2).mean()
    return float(error) - probed.variance + 2 * probed.divergence
