"""Monte-Carlo SURE: the mean squared error of a denoiser, estimated from noisy images alone (Ramani et al., 2008)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from basicsr_sassid.inference.blend import coarse_colour_shift
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import local_intensity, noise_gain
from basicsr_sassid.noise.synthetic import sample_noise
from basicsr_sassid.ops.arrays import is_grey

PROBE_STEP = 0.1  # of the probe, as a fraction of the noise's sigma
_LEAST_IMAGES = 4  # whose differences give a standard error

Denoise = Callable[[np.ndarray], np.ndarray]


def monte_carlo_sure(denoise: Denoise, images: Iterable[np.ndarray], noise: NoiseModel, seed: int = 0) -> float:
    r"""Estimate the mean squared error of a denoiser without clean images: Stein's unbiased risk estimate.

    .. math:: \mathrm{mean}\,|f(y) - y|^2 - \sigma^2 + 2\,\mathrm{mean}\,n' (f(y + \epsilon n') - f(y)) / \epsilon

    for one draw of n' with the measured covariance of the noise (Ramani et al., 2008, with correlated noise). The
    subtracted variance is the same for every denoiser: an error in it shifts all estimates alike. The mean of skewed
    noise is not zero; y is brightened by it, see :mod:`basicsr_sassid.noise.encoding`. So the estimates rank denoisers;
    they are not accurate enough for a PSNR. Rankings are paired: give the same images and seed.

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
                _risk(_apply(denoise, image, probe), probe)
                for image, probe in ((image, draw_probe(image, noise, (seed, n))) for n, image in enumerate(images))
            ]
        )
    )


def optimal_blend_weight(
    classical: Denoise, student: Denoise, images: Iterable[np.ndarray], noise: NoiseModel, seed: int = 0
) -> tuple[float, dict[str, float]]:
    """Weight of a trained network in its mean with a classical denoiser, from noisy images alone.

    The weight whose error is least even if Stein's estimate is too low by one standard error, which is that of the
    images' mean: a network that does not suit the photographs gets no weight by chance. The network's result has the
    colour of large areas of the classical one, see :class:`BlendedDenoiser`: an L1 loss learns the median of skewed
    noise, whose distance from the mean would count as the network's error (docs/noise.md, "The weight of the blend").

    Args:
        classical, student: denoisers, see :func:`monte_carlo_sure`.
        images, noise, seed: see :func:`monte_carlo_sure`.

    Returns:
        The weight, 0 to 1, and the estimated risks: ``noisy``, ``classical``, ``student``, ``blend``.
    """
    cross_terms: list[np.ndarray] = []
    square_terms: list[float] = []
    risks: list[list[float]] = []
    for number, image in enumerate(images):
        probe = draw_probe(image, noise, (seed, number))
        first, second = (_apply(denoise, image, probe) for denoise in (classical, student))
        second = second.with_coarse_colour_of(first)
        between = second.result - first.result
        removed = first.result - probe.unbiased
        cross_terms.append(removed * between + probe.direction * (second.derivative - first.derivative))
        square_terms.append(float((between**2).mean()))
        risks.append([float(probe.variance.mean()), _risk(first, probe), _risk(second, probe)])
    cross, error = _mean_and_error(cross_terms)
    square = max(float(np.mean(square_terms)), 1e-12)
    noisy_risk, first_risk, second_risk = np.mean(risks, axis=0).tolist()
    weight = float(np.clip(-(cross + error) / square, 0, 1))
    return weight, {
        'noisy': noisy_risk,
        'classical': first_risk,
        'student': second_risk,
        'blend': float(first_risk + 2 * weight * cross + weight**2 * square),
    }


def _mean_and_error(terms: list[np.ndarray]) -> tuple[float, float]:
    """Mean over images (H, W, 3), and its standard error; that of their quarters where there are few images."""
    if len(terms) < _LEAST_IMAGES:
        terms = [
            quarter for term in terms for half in np.array_split(term, 2) for quarter in np.array_split(half, 2, 1)
        ]
    means = np.array([term.mean() for term in terms])
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means)))


@dataclasses.dataclass(frozen=True)
class Probe:
    """One draw of the noise of an image, along which a denoiser is differentiated.

    Attributes:
        direction: (H, W, 3), the draw, in grey levels.
        variance: (H, W, 3), of the noise, in grey levels squared.
        unbiased: (H, W, 3), the noisy image in grey levels, brightened by what gamma encoding has darkened it.
    """

    direction: np.ndarray
    variance: np.ndarray
    unbiased: np.ndarray


@dataclasses.dataclass(frozen=True)
class _ProbedResult:
    """A denoised image and its derivative along a probe: both (H, W, 3), in grey levels."""

    result: np.ndarray
    derivative: np.ndarray

    def divergence(self, probe: Probe) -> float:
        return float((probe.direction * self.derivative).mean())

    def with_coarse_colour_of(self, other: _ProbedResult) -> _ProbedResult:
        return _ProbedResult(
            self.result + coarse_colour_shift(self.result, other.result),
            self.derivative + coarse_colour_shift(self.derivative, other.derivative),
        )


def draw_probe(image: np.ndarray, noise: NoiseModel, seed: tuple[int, int]) -> Probe:
    """One draw of the noise of an image, (H, W, 3) float32 in [0, 1]."""
    grey_levels = image * np.float32(255)
    intensity = local_intensity(grey_levels)
    gain = noise_gain(image, noise)
    noise = noise.as_grey() if is_grey(image) else noise
    sigma = gain * noise.sigma_at(intensity)
    return Probe(
        gain * sample_noise(noise, intensity, np.random.default_rng(seed)),
        sigma**2,
        grey_levels + noise.encoding_bias(intensity, sigma),
    )


def _apply(denoise: Denoise, image: np.ndarray, probe: Probe) -> _ProbedResult:
    """Denoise an image, and differentiate the result along the probe."""
    denoise = getattr(denoise, 'denoise_any_range', denoise)
    result = denoise(image) * np.float32(255)
    moved = denoise(image + probe.direction * np.float32(PROBE_STEP / 255)) * np.float32(255)
    return _ProbedResult(result, (moved - result) / np.float32(PROBE_STEP))


def _risk(probed: _ProbedResult, probe: Probe) -> float:
    error = ((probed.result - probe.unbiased) ** 2).mean()
    return float(error) - float(probe.variance.mean()) + 2 * probed.divergence(probe)
