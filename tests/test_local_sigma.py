"""Sigma that is measured all over a photograph: against noise of known sigma, in texture, in text, in JPEGs."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import skimage.data

from basicsr_sassid import NoiseModel, SpectralDenoiser, estimate_noise
from basicsr_sassid.noise.local_sigma import measure_local_sigma

from noise_scenes import camera_pairs, white_noise


def with_noise(scene: np.ndarray, sigma: float | np.ndarray, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (scene + sigma * rng.normal(size=scene.shape)).clip(0, 255).round().astype(np.uint8)


def constant(sigma: float, at_dark: float, at_bright: float) -> NoiseModel:
    """White noise whose curve is wrong or right: two points."""
    points = np.array([(60.0, at_dark), (190.0, at_bright)])
    return dataclasses.replace(white_noise(sigma), sigma_curve=dict.fromkeys('RGB', points))


@pytest.mark.parametrize('channels', [1, 3])
def test_sigma_by_intensity_is_found(channels):
    scene = np.repeat(np.where(np.arange(512) < 256, 60.0, 190.0)[None, :, None], 256, axis=0).repeat(channels, 2)
    sigma = np.where(scene < 100, 4.0, 8.0)
    local = measure_local_sigma(with_noise(scene, sigma), constant(6.0, at_dark=4, at_bright=8))
    found = local.at(slice(0, 256), slice(0, 512))
    assert found.shape == (256, 512, channels)
    assert np.median(found[:, 64:192]) == pytest.approx(4, rel=0.15)
    assert np.median(found[:, 320:448]) == pytest.approx(8, rel=0.25)  # the change within a photograph is shrunk


def test_curve_that_detail_has_raised_is_lowered():
    """Where no flat patch has an intensity, the model's sigma there is that of the scene's detail."""
    scene = np.full((256, 256, 3), 60.0)
    scene[:, 128:] = 190
    noisy = with_noise(scene, 5.0)
    found = measure_local_sigma(noisy, constant(5.0, at_dark=5, at_bright=15)).at(slice(0, 256), slice(192, 256))
    assert np.median(found) < 7.5


def test_sigma_of_blurred_noise_is_found():
    """It has power in few coefficients; in the others, rounding and the end of the measured correlation count."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(256, 256, 3)), (0, 0), 1.5)
    noisy = (128 + 10 * noise / noise.std()).round().astype(np.uint8)
    found = measure_local_sigma(noisy, estimate_noise([noisy])).sigma
    assert np.median(found) == pytest.approx(10, rel=0.15)


def test_text_is_not_taken_for_noise():
    """All patches of a page have detail; the model's sigma is the limit."""
    noisy = with_noise(np.repeat(skimage.data.page()[..., None], 3, axis=2).astype(float), 5.0)
    found = measure_local_sigma(noisy, white_noise(5.0)).sigma
    assert np.median(found) < 8


def test_colour_noise_that_the_model_misses_is_found():
    rng = np.random.default_rng(0)
    grey, colour = rng.normal(0, 6, (256, 256, 1)), rng.normal(0, 6, (256, 256, 3))
    model = white_noise(6.0)
    same = model.cross_correlation[:1, :1] * np.float32(0.9) + 0.1 * model.cross_correlation  # all but one channel
    model = dataclasses.replace(model, cross_correlation=same)
    more = measure_local_sigma((128 + colour).round().astype(np.uint8), model).colour_gain
    none = measure_local_sigma((128 + np.repeat(grey, 3, 2)).round().astype(np.uint8), model).colour_gain
    assert more[0] == 1 and (more[1:] > 2).all()
    assert (none == 1).all()


def test_box_beyond_the_border_repeats_it():
    local = measure_local_sigma(camera_pairs()[0][0][0], camera_pairs()[1])
    inside, beyond = local.at(slice(0, 32), slice(0, 32)), local.at(slice(-8, 32), slice(0, 32))
    assert beyond[8:] == pytest.approx(inside) and np.ptp(beyond[:8], axis=0).max() < 1e-5


def test_grey_image_is_denoised_as_three_equal_channels():
    noisy = with_noise(np.full((64, 80), 128.0), 8.0)
    denoise = SpectralDenoiser(estimate_noise([noisy]))
    grey = denoise(noisy)
    assert np.array_equal(denoise(np.repeat(noisy[..., None], 3, 2)), np.repeat(grey[..., None], 3, 2))
    assert (grey - 128.0).std() < 2
