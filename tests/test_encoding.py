"""The bias that gamma encoding gives to noise: its size, its detection, and its removal."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.noise.encoding import encoding_bias, skewness_ratio, skewness_terms
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.pipeline.diagnostics import COLOUR_SHIFT, diagnose

from noise_scenes import white_noise


def unit_noise(seed: int) -> np.ndarray:
    """(256, 256, 3), correlated over 3 pixels, of variance 1."""
    return cv2.blur(np.random.default_rng(seed).normal(0, 2, (256, 256, 3)), (2, 2))


def srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055) * 255


def light(encoded: float) -> float:
    return ((encoded / 255 + 0.055) / 1.055) ** 2.4


def encoded_scene(seed: int, level: float, sigma: float = 0.09) -> np.ndarray:
    """(256, 256, 3) uint8: noise of light, correlated over 3 pixels, on one clean level, then sRGB."""
    return srgb(light(level) + sigma * light(level) ** 0.5 * unit_noise(seed)).clip(0, 255).round().astype(np.uint8)


def added_scene(seed: int, level: float, sigma: float = 12) -> np.ndarray:
    """The same with noise that is added after the encoding."""
    return (level + sigma * unit_noise(seed)).clip(0, 255).round().astype(np.uint8)


LEVELS = (60, 90, 120, 160)


@pytest.mark.parametrize('level', [40, 80, 160, 230])
def test_encoding_bias_is_the_distance_of_the_mean_from_the_clean_pixel(level):
    rng = np.random.default_rng(0)
    noisy = srgb(light(level) * (1 + 0.1 * rng.standard_normal(10**6)))
    bias = encoding_bias(np.array([level]), np.array([noisy.std()]))
    assert bias == pytest.approx(level - noisy.mean(), rel=0.1)


def test_encoding_bias_is_at_most_a_quarter_of_sigma():
    sigma = np.linspace(0, 100, 50)
    assert (encoding_bias(np.full(50, 20.0), sigma) <= sigma / 4 + 1e-4).all()


def test_encoding_bias_is_0_where_encoded_values_are_linear_in_light():
    assert encoding_bias(np.array([0.0, 5.0]), np.array([3.0, 3.0])).tolist() == [0, 0]


def test_skewness_ratio_of_encoded_noise_is_next_to_1():
    assert estimate_noise(encoded_scene(seed, level) for seed, level in enumerate(LEVELS)).skewness > 0.7


def test_skewness_ratio_of_noise_added_after_the_encoding_is_0():
    assert estimate_noise(added_scene(seed, level) for seed, level in enumerate(LEVELS)).skewness == 0


def test_skewness_ratio_of_few_patches_is_0():
    terms = skewness_terms(np.random.default_rng(0).gamma(2, 4, (15, 3, 1024)).astype(np.float32), np.full((15, 3), 90))
    assert skewness_ratio(terms, 1) == 0


def test_skewness_ratio_of_the_opposite_skewness_is_0():
    residual = np.random.default_rng(0).gamma(2, 4, (40, 3, 1024)).astype(np.float32)
    assert skewness_ratio(skewness_terms(residual, np.full((40, 3), 90)), 1) == 0


def test_skewness_ratio_of_more_than_the_encoding_gives_is_1():
    residual = -np.random.default_rng(0).gamma(1, 4, (40, 3, 1024)).astype(np.float32)
    assert skewness_ratio(skewness_terms(residual, np.full((40, 3), 200)), 1) == 1


@pytest.mark.parametrize('level', LEVELS)
def test_spectral_denoiser_restores_the_brightness_that_the_encoding_took(level):
    images = [encoded_scene(seed, other) for seed, other in enumerate(LEVELS)]
    noisy = images[LEVELS.index(level)]
    before, after = level - noisy.mean(), level - SpectralDenoiser(estimate_noise(images))(noisy).mean()
    assert before > 0.3 and abs(after) < 0.4 * before


def test_spectral_denoiser_of_added_noise_keeps_the_brightness():
    noisy = added_scene(0, 90)
    denoised = SpectralDenoiser(estimate_noise([noisy]))(noisy)
    assert denoised.mean() == pytest.approx(noisy.mean(), abs=0.1)


def test_noise_model_of_an_earlier_version_has_no_skewness():
    noise = estimate_noise([encoded_scene(0, 90)])
    content = noise.to_dict()
    assert NoiseModel.from_dict(content).skewness == noise.skewness
    del content['skewness']
    assert NoiseModel.from_dict(content).skewness == 0


@pytest.mark.parametrize('brightened', [0.0, 1.0])
def test_diagnose_restored_brightness_is_no_colour_shift(brightened):
    noise = dataclasses.replace(white_noise(20), skewness=1.0)
    noisy = (80 + 20 * np.random.default_rng(0).standard_normal((256, 256, 3))).clip(0, 255).astype(np.float32) / 255
    bias = float(encoding_bias(np.array(80.0), np.array(20.0)))
    assert bias > COLOUR_SHIFT

    def denoise(image):
        return np.full_like(image, image.mean() + brightened * bias / 255)

    assert diagnose('result', denoise, [noisy], noise) == []
