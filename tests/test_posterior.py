"""PosteriorMean on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from basicsr_sassid import estimate_noise
from basicsr_sassid.noise.posterior import PosteriorMean


def batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]


def posterior_of(noisy: np.ndarray) -> PosteriorMean:
    return PosteriorMean(estimate_noise([(noisy / 255).astype(np.float32)]))


def test_posterior_mean_keeps_a_right_prediction_and_replaces_a_wrong_one():
    """Flat on the left, which the prediction has right; on the right its error exceeds the noise by far."""
    rng = np.random.default_rng(0)
    clean = np.full((128, 256, 3), 120.0, np.float32)
    noisy = clean + rng.normal(0, 5, clean.shape)
    prediction = clean.copy()
    prediction[:, 128:] += 40 * np.sign(rng.normal(0, 1, (128, 128, 3)))
    result = posterior_of(noisy)(batch(prediction), batch(noisy))
    error = ((result - 120) ** 2).mean(dim=(0, 1, 2))  # by column
    assert error[:110].mean() < 1.5
    assert error[146:].mean() < 1.1 * 25


def test_posterior_mean_of_gaussian_errors_has_bayes_error():
    rng = np.random.default_rng(1)
    clean = np.full((256, 256, 3), 120.0)
    noisy, prediction = clean + rng.normal(0, 6, clean.shape), clean + rng.normal(0, 3, clean.shape)
    result = posterior_of(noisy)(batch(prediction), batch(noisy))
    assert ((result - 120) ** 2).mean().item() == pytest.approx(1 / (1 / 36 + 1 / 9), rel=0.1)


def test_compare_returns_error_and_variance():
    rng = np.random.default_rng(1)
    clean = np.full((256, 256, 3), 120.0)
    noisy, prediction = clean + rng.normal(0, 6, clean.shape), clean + rng.normal(0, 9, clean.shape)
    assert posterior_of(noisy).compare(batch(prediction), batch(noisy)) == pytest.approx((81, 36), rel=0.1)


@pytest.mark.parametrize('side', [4, 33])
def test_posterior_mean_of_equal_images_is_that_image(side):
    noise = estimate_noise([np.random.default_rng(2).normal(0.5, 0.05, (64, 64, 3))])
    x = torch.rand(2, 3, side, side + 1) * 255
    assert torch.allclose(PosteriorMean(noise)(x, x), x)
