"""Monte-Carlo SURE: the mean squared error of a denoiser, estimated from noisy images alone (Ramani et al., 2008)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, noise_gain
from basicsr_sassid.noise.synthetic import sample_noise
from basicsr_sassid.ops.arrays import is_grey

PROBE_STEP = 0.1  # of the probe, as a fraction of the noise's sigma
# fraction of the noise's variance by which a network's estimated risk is too high, by kind of noise
_RISK_BIAS, _RISK_BIAS_JPEG = 0.05, 0.4

Denoise = Callable[[np.ndarray], np.ndarray]


def monte_carlo_sure(denoise: Denoise, images: Iterable[np.ndarray], noise: NoiseModel, seed: int = 0) -> float:
    r"""Estimate the mean squared error of a denoiser without clean images: Stein's unbiased risk estimate.

    .. math:: \mathrm{mean}\,|f(y) - y|^2 - \sigma^2 + 2\,\mathrm{mean}\,n' (f(y + \epsilon n') - f(y)) / \epsilon

    for one draw of n' with the measured covariance of the noise (Ramani et al., 2008, with correlated noise). The
    subtracted variance is the same for every denoiser: an error in it shifts all estimates alike. So the estimates rank
    denoisers; they are not accurate enough for a PSNR. Rankings are paired: give the same images and seed.

    Args:
        denoise: (H, W, 3) float32 in [0, 1] to the same. The probes leave the range by a tenth of the noise: where the
            denoiser has a method ``denoise_any_range``, as those of this package have, it is called.
        images: noisy, (H, W, 3) float32 in [0, 1].
        noise: of :func:`estimate_noise` on images of this kind.
        seed: of the draw.

    Returns:
        Estimated mean squared error, grey levels squared; it can be negative.
    """
    return float(
        np.mean(
            [
                _risk(_apply(denoise, image, draw_probe(image, noise, (seed, number))), image)
                for number, image in enumerate(images)
            ]
        )
    )


def optimal_blend_weight(
    first: Denoise,
    second: Denoise,
    images: Iterable[np.ndarray],
    noise: NoiseModel,
    seed: int = 0,
    risk_bias: float | None = None,
) -> tuple[float, dict[str, float]]:
    """Weight of a trained network, ``second``, in its mean with a denoiser that is based on ``noise``, ``first``.

    The weight minimises :func:`monte_carlo_sure` of the mean, after the network's risk was reduced by ``risk_bias``.
    The estimate is biased against the network for two reasons: noise that the measurement missed, which the first
    denoiser leaves in and the estimate takes for signal, and skewed noise, of which an L1 loss learns the median.

    Args:
        first, second, images, noise, seed: see :func:`monte_carlo_sure`.
        risk_bias: the bias, as a fraction of the noise's variance. By default as measured once with clean images
            (docs/noise.md): 0.05, or 0.4 where the noise is correlated beyond the recommended blind size, as that of
            cameras' JPEGs.

    Returns:
        The weight, 0 to 1, and the estimated risks: ``noisy``, ``first``, ``second``, ``mixture`` (of the mean).
    """
    cross_terms: list[float] = []
    square_terms: list[float] = []
    risks: list[list[float]] = []
    for number, image in enumerate(images):
        probe = draw_probe(image, noise, (seed, number))
        results = [_apply(denoise, image, probe) for denoise in (first, second)]
        between = results[1].result - results[0].result
        removed = results[0].result - image * np.float32(255)
        cross_terms.append((removed * between).mean() + results[1].divergence - results[0].divergence)
        square_terms.append((between**2).mean())
        risks.append([float(probe.variance.mean()), *(_risk(result, image) for result in results)])
    cross, square = np.mean(cross_terms), max(np.mean(square_terms), 1e-12)
    noisy_risk, first_risk, second_risk = np.mean(risks, axis=0).tolist()
    if risk_bias is None:
        risk_bias = _RISK_BIAS_JPEG if noise.correlation_length() > noise.blind_size() else _RISK_BIAS
    weight = float(np.clip((risk_bias * noisy_risk / 2 - cross) / square, 0, 1))
    return weight, {
        'noisy': noisy_risk,
        'first': first_risk,
        'second': second_risk,
        'mixture': float(first_risk + 2 * weight * cross + weight**2 * square),
    }


@dataclasses.dataclass(frozen=True)
class Probe:
    """One draw of the noise of an image, along which a denoiser is differentiated.

    Attributes:
        direction: (H, W, 3), the draw, in grey levels.
        variance: (H, W, 3), of the noise, in grey levels squared.
    """

    direction: np.ndarray
    variance: np.ndarray


@dataclasses.dataclass(frozen=True)
class _ProbedResult:
    result: np.ndarray
    divergence: float
    variance: float


def draw_probe(image: np.ndarray, noise: NoiseModel, seed: tuple[int, int]) -> Probe:
    """One draw of the noise of an image, (H, W, 3) float32 in [0, 1]."""
    intensity = local_intensity(image * np.float32(255))
    gain = noise_gain(image, noise)
    noise = noise.as_grey() if is_grey(image) else noise
    return Probe(
        gain * sample_noise(noise, intensity, np.random.default_rng(seed)), (gain * noise.sigma_at(intensity)) ** 2
    )


def _apply(denoise: Denoise, image: np.ndarray, probe: Probe) -> _ProbedResult:
    """Denoise an image, and differentiate the result along the probe."""
    denoise = getattr(denoise, 'denoise_any_range', denoise)
    result = denoise(image) * np.float32(255)
    moved = denoise(image + probe.direction * np.float32(PROBE_STEP / 255)) * np.float32(255)
    return _ProbedResult(
        result, float((probe.direction * (moved - result)).mean() / PROBE_STEP), float(probe.variance.mean())
    )


def _risk(probed: _ProbedResult, image: np.ndarray) -> float:
    error = ((probed.result - image * np.float32(255)) ** 2).mean()
    return float(error) - probed.variance + 2 * probed.divergence
