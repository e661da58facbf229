"""The simulated camera."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_sassid.noise.synthetic import simulate_camera

GREY = np.full((400, 400, 3), 120, np.uint8)


def shot(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return simulate_camera(GREY, np.random.default_rng(seed), photons=80, read_noise=2)


def test_simulate_camera_reference_is_the_scene():
    assert np.abs(shot()[1].astype(float) - 120).max() <= 1


@pytest.mark.parametrize(('lag', 'low', 'high'), [(1, 0.35, 0.6), (2, 0.02, 0.2), (4, -0.05, 0.05)])
def test_simulate_camera_noise_is_correlated_as_on_sidd(lag, low, high):
    """SIDD: 0.47, 0.08 and 0.00 at distances of 1, 2 and 4 pixels."""
    error = shot()[0].astype(float).mean(axis=2)
    error -= error.mean()
    assert low < (error[:, lag:] * error[:, :-lag]).mean() / error.var() < high


def test_simulate_camera_same_seed_gives_the_same_noise():
    assert np.array_equal(shot()[0], shot()[0])
    assert not np.array_equal(shot()[0], shot(1)[0])
