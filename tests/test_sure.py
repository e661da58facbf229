"""Monte-Carlo SURE and the blend weight that follows from it, against the true errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from basicsr_sassid import SpectralDenoiser
from basicsr_sassid.inference.sure import monte_carlo_sure, optimal_blend_weight

from noise_scenes import camera_pairs, unit_range


def blur(sigma):
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def noisy_images() -> list[np.ndarray]:
    return [unit_range(noisy) for noisy, _ in camera_pairs()[0]]


def true_error(denoise) -> float:
    return float(
        np.mean([((denoise(unit_range(noisy)) * 255 - clean) ** 2).mean() for noisy, clean in camera_pairs()[0]])
    )


def weighted(weight):
    return lambda image: (1 - weight) * blur(1.2)(image) + weight * blur(4)(image)


@pytest.mark.slow
def test_monte_carlo_sure_ranks_denoisers_as_their_errors_do():
    noise = camera_pairs()[1]
    denoisers = {
        **{sigma: blur(sigma) for sigma in (1, 1.5, 2, 3, 5)},
        'noisy': lambda image: image,
        'spectral': SpectralDenoiser(noise),
    }
    risks = {name: monte_carlo_sure(denoise, noisy_images(), noise) for name, denoise in denoisers.items()}
    errors = {name: true_error(denoise) for name, denoise in denoisers.items()}
    assert sorted(risks, key=risks.__getitem__) == sorted(errors, key=errors.__getitem__)
    assert risks == pytest.approx(errors, rel=0.15, abs=5)


def test_optimal_blend_weight_is_that_of_the_least_true_error():
    weight, _ = optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1], risk_bias=0)
    errors = [true_error(weighted(candidate)) for candidate in np.linspace(0, 1, 21)]
    assert weight == pytest.approx(np.argmin(errors) / 20, abs=0.1)


def test_optimal_blend_weight_risk_of_the_blend_is_below_both():
    weight, risks = optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1], risk_bias=0)
    assert 0.1 < weight < 0.9 and risks['mixture'] < min(risks['first'], risks['second'])


def test_optimal_blend_weight_risk_of_the_blend_is_its_sure():
    weight, risks = optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1], risk_bias=0)
    expected = monte_carlo_sure(weighted(weight), noisy_images(), camera_pairs()[1])
    assert risks['mixture'] == pytest.approx(expected, rel=1e-3)


def test_optimal_blend_weight_risk_bias_favours_the_network():
    weights = [
        optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1], risk_bias=bias)[0]
        for bias in (0, None)
    ]
    assert weights[1] > weights[0]
