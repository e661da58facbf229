"""Monte-Carlo SURE and the blend weight that follows from it, against the true errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from basicsr_sassid import SpectralDenoiser
from basicsr_sassid.inference.blend import coarse_colour_shift
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


def best_weight() -> float:
    return float(np.argmin([true_error(weighted(candidate)) for candidate in np.linspace(0, 1, 21)]) / 20)


def aligned(first, second):
    """``second`` with the colour of large areas of ``first``."""

    def denoise(image):
        results = [denoise(image) for denoise in (first, second)]
        return results[1] + coarse_colour_shift(results[1], results[0])

    return denoise


def test_optimal_blend_weight_is_that_of_the_least_true_error():
    weight, _ = optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1])
    assert weight == pytest.approx(best_weight(), abs=0.1)


def test_optimal_blend_weight_risk_of_the_blend_is_below_both():
    weight, risks = optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1])
    assert 0.1 < weight < 0.9 and risks['blend'] < min(risks['classical'], risks['student'])


def test_optimal_blend_weight_risk_of_the_blend_is_its_sure():
    weight, risks = optimal_blend_weight(blur(1.2), blur(4), noisy_images(), camera_pairs()[1])
    student = aligned(blur(1.2), blur(4))
    expected = monte_carlo_sure(
        lambda image: (1 - weight) * blur(1.2)(image) + weight * student(image), noisy_images(), camera_pairs()[1]
    )
    assert risks['blend'] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('foreign', [lambda image: image, blur(20)], ids=['copies its input', 'removes detail'])
def test_optimal_blend_weight_of_a_network_that_does_not_suit_is_next_to_0(foreign):
    noise = camera_pairs()[1]
    assert optimal_blend_weight(SpectralDenoiser(noise), foreign, noisy_images()[:2], noise)[0] < 0.03


@pytest.mark.parametrize('count', [1, 3])
def test_optimal_blend_weight_of_few_images_allows_for_their_differences(count):
    images, noise = noisy_images()[:count], camera_pairs()[1]
    weight, risks = optimal_blend_weight(blur(1.2), blur(4), images, noise)
    square = np.mean([((aligned(blur(1.2), blur(4))(im) - blur(1.2)(im)) ** 2).mean() for im in images]) * 255**2
    without_allowance = (1 + (risks['classical'] - risks['student']) / square) / 2
    assert 0 < weight < without_allowance


def test_optimal_blend_weight_ignores_a_shift_of_the_colour():
    noise = camera_pairs()[1]
    weights = [
        optimal_blend_weight(blur(1.2), lambda image, shift=shift: blur(4)(image) + shift, noisy_images()[:2], noise)[0]
        for shift in (0, 0.02)
    ]
    assert weights[1] == pytest.approx(weights[0], abs=1e-3)
