"""The blend of two denoisers: BlendedDenoiser, and how its weight is fitted to noisy images."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.inference.blend import BlendedDenoiser, coarse_colour_shift
from basicsr_sassid.inference.sure import optimal_blend_weight
from basicsr_sassid.pipeline.blending import blend_crops, fit_blend
from basicsr_sassid.utils.errors import UserError

from clean_runs import crops_and_references


@pytest.fixture
def noisy() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 150, (40, 300, 3)).astype(np.uint8)


def constant(level: int):
    def denoise(image, progress=None):
        if progress:
            progress(1.0)
        return np.full_like(image, level * 257)

    return denoise


def tinted(image, progress=None):
    return np.full_like(image, 120 * 257) + np.array([0, 8 * 257, 0], np.uint16)


# ---- BlendedDenoiser ----


@pytest.mark.parametrize(('student_weight', 'expected'), [(0, 120), (0.25, 125), (1, 140)])
def test_blended_denoiser_output_is_the_weighted_mean(noisy, student_weight, expected):
    assert (BlendedDenoiser(constant(120), constant(140), student_weight)(noisy) == expected).all()


@pytest.mark.parametrize(('classical', 'student', 'weight'), [(None, constant(1), 0.5), (constant(1), None, 0.5)])
def test_blended_denoiser_missing_denoiser_raises_value_error(classical, student, weight):
    with pytest.raises(ValueError, match='is None'):
        BlendedDenoiser(classical, student, weight)


def test_blended_denoiser_strength_0_returns_the_input(noisy):
    assert (BlendedDenoiser(constant(125), None, 0, strength=0)(noisy) == noisy).all()


def test_blended_denoiser_strength_half_returns_the_mean_with_the_input(noisy):
    result = BlendedDenoiser(constant(125), None, 0, strength=0.5)(noisy)
    assert np.abs(result - (noisy + 125.0) / 2).max() <= 0.5


def test_blended_denoiser_chroma_alone_keeps_the_grey_value(noisy):
    result = BlendedDenoiser(constant(125), None, 0, strength=0, chroma=1)(noisy).astype(float)
    assert np.abs(result.mean(2) - noisy.mean(2)).max() <= 1


def test_blended_denoiser_chroma_alone_removes_colour_differences(noisy):
    result = BlendedDenoiser(constant(125), None, 0, strength=0, chroma=1)(noisy).astype(float)
    assert np.ptp(result, axis=2).max() <= 1


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_blended_denoiser_keeps_the_dtype(noisy, dtype):
    assert BlendedDenoiser(constant(125), None, 0, strength=0.5)(noisy.astype(dtype)).dtype == dtype


def test_blended_denoiser_keep_colour_restores_the_means_of_the_input():
    noisy = (120 + np.random.default_rng(0).normal(0, 5, (256, 256, 3))).clip(0, 255).astype(np.uint8)
    result = BlendedDenoiser(tinted, None, 0, keep_colour=True)(noisy)
    assert np.abs(result.mean(axis=(0, 1)) - noisy.mean(axis=(0, 1))).max() < 0.5


def test_blended_denoiser_align_colour_takes_the_classical_colour(noisy):
    result = BlendedDenoiser(constant(120), constant(140), 0.25, align_colour=True)(noisy)
    assert np.abs(result - 120.0).max() <= 0.5


def test_blended_denoiser_align_colour_is_coarse_colour_shift(noisy):
    rng = np.random.default_rng(1)
    first, second = (rng.integers(20000, 40000, noisy.shape).astype(np.uint16) for _ in range(2))
    result = BlendedDenoiser(lambda *_: first, lambda *_: second, 1.0, align_colour=True)(noisy.astype(np.uint16))
    shift = coarse_colour_shift(second.astype(np.float32), first.astype(np.float32))
    assert np.abs(result - (second + shift)).max() <= 1


def test_blended_denoiser_progress_covers_both_denoisers(noisy):
    fractions = []
    BlendedDenoiser(constant(120), constant(140), 0.5)(noisy, fractions.append)
    assert fractions == [0.5, 1]


# ---- blend_crops ----


def test_blend_crops_many_images_gives_evenly_spaced_ones():
    read = []
    blend_crops(dict.fromkeys(range(17), (128, 128)), lambda key: read.append(key) or np.zeros((128, 128, 3)))
    assert read == [0, 3, 6, 9, 12, 15]


def test_blend_crops_image_below_128_pixels_is_left_out():
    crops = blend_crops({'narrow': (127, 500), 'large': (128, 128)}, lambda key: np.full((128, 128, 3), len(key)))
    assert [crop[0, 0, 0] for crop in crops] == [len('large')]


def test_blend_crops_unreadable_image_is_skipped():
    def read(key):
        if key == 'damaged':
            raise UserError('damaged')
        return np.zeros((200, 200, 3), np.float32)

    assert len(blend_crops(dict.fromkeys(('damaged', 'whole'), (200, 200)), read)) == 1


def test_blend_crops_large_image_gives_its_central_square():
    image = np.random.default_rng(0).random((300, 401, 3), np.float32)
    (crop,) = blend_crops({0: (300, 401)}, lambda key: image)
    assert np.array_equal(crop, image[22:278, 72:328])


# ---- fit_blend ----


def copy_input(image, progress=None):
    return image


@pytest.fixture(scope='module')
def measured():
    """Crops, their noise, and the spectral denoiser."""
    crops, _ = crops_and_references()
    noise = estimate_noise(crops)
    return crops, noise, SpectralDenoiser(noise)


@pytest.fixture(scope='module')
def fitted(measured):
    crops, noise, classical = measured
    return fit_blend(classical, copy_input, crops, noise)


def test_fit_blend_two_denoisers_has_the_optimal_weight(measured, fitted):
    crops, noise, classical = measured
    assert fitted.denoiser.student_weight == optimal_blend_weight(classical, copy_input, crops, noise)[0]


def test_fit_blend_two_denoisers_estimates_four_risks(fitted):
    assert fitted.risks.keys() == {'noisy', 'classical', 'student', 'blend'}


def test_fit_blend_without_student_is_classical_alone(measured):
    crops, noise, classical = measured
    assert fit_blend(classical, None, crops[:1], noise).denoiser == BlendedDenoiser(classical, None, 0.0)


def test_fit_blend_without_crops_is_the_student_alone(measured):
    _, noise, classical = measured
    assert fit_blend(classical, copy_input, [], noise).denoiser == BlendedDenoiser(None, copy_input, 1.0)


def test_fit_blend_without_noise_has_no_findings(measured):
    assert fit_blend(None, copy_input, measured[0], None).findings == []


def test_fit_blend_with_nothing_to_compare_has_no_risks(measured):
    assert fit_blend(None, copy_input, measured[0], None).risks == {}


def test_fit_blend_colour_shift_keeps_the_colour_of_the_input(measured):
    crops, noise, classical = measured

    def shifted(image, progress=None):
        return classical(image) + np.array([0.03 * 65535, 0, 0]).astype(image.dtype)

    assert fit_blend(shifted, None, crops[:1], noise).denoiser.keep_colour
