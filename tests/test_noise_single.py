"""Noise of a single small photograph: saturated areas, few patches, and the standard error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from basicsr_sassid import NoiseModel, SpectralDenoiser, estimate_noise
from basicsr_sassid.io.photo import Photo, write_photo
from basicsr_sassid.noise.sigma_curve import sigma_curve
from basicsr_sassid.noise.sigma_map import noise_gain
from basicsr_sassid.noise.survey import describe, survey_files
from sassid import main

from noise_scenes import Pair, camera_pairs, dark_photograph_with_detail, saturated_photograph


def removed_fraction(noisy: np.ndarray, clean: np.ndarray, noise: NoiseModel) -> float:
    """Standard deviation of what the spectral denoiser removes, as a fraction of the true noise's."""
    removed = noisy - SpectralDenoiser(noise)(noisy).astype(float)
    return float(removed.std() / (noisy - clean.astype(float)).std())


@pytest.mark.parametrize('is_grey', [False, True])
def test_estimate_noise_blank_area_below_white_is_saturated(is_grey):
    noisy, clean = saturated_photograph(is_grey)
    noise = estimate_noise([noisy])
    assert noise.sigma == pytest.approx([20, 20, 20], rel=0.1)
    for points in noise.sigma_curve.values():
        assert points[:, 1] == pytest.approx(20, rel=0.25)
    assert removed_fraction(noisy, clean, noise) > 0.9


@pytest.mark.parametrize('is_grey', [False, True])
def test_noise_gain_blank_area_is_left_out(is_grey):
    noisy = saturated_photograph(is_grey)[0][:, 96:]  # most of it is blank
    noise = dataclasses.replace(
        camera_pairs()[1], sigma=np.full(3, 20.0), sigma_curve=dict.fromkeys('RGB', np.empty((0, 2)))
    )
    assert noise_gain(noisy, noise) == pytest.approx([1, 1, 1], rel=0.1)


def test_estimate_noise_crushed_shadows_are_saturated():
    noisy, clean = (255 - image for image in saturated_photograph(False))  # black at 6 and 10
    assert removed_fraction(noisy, clean, estimate_noise([noisy])) > 0.9


def test_estimate_noise_image_that_is_blank_everywhere_has_little_noise():
    rng = np.random.default_rng(0)
    blank = np.round(128 + rng.normal(0, 0.3, (128, 128, 3))).astype(np.uint8)
    assert estimate_noise([blank]).sigma.max() < 0.5


def test_estimate_noise_few_unclipped_patches_do_not_speak_for_the_others():
    noisy, clean = dark_photograph_with_detail()
    noise = estimate_noise([noisy])
    assert noise.correlation_length() == 1
    assert noise.sigma == pytest.approx((noisy - clean.astype(float))[100:].std(axis=(0, 1)), rel=0.1)


def curve_of(*groups: tuple[float, list[float]]) -> np.ndarray:
    """The sigma curve of one image whose patches have (intensity, their sigmas); overall sigma is 12."""
    means = np.concatenate([np.full(len(sigmas), intensity) for intensity, sigmas in groups])
    return sigma_curve([means], [np.concatenate([sigmas for _, sigmas in groups]) ** 2], sigma=12.0)


def test_sigma_curve_few_patches_of_neighbouring_intensities_are_one_point():
    points = curve_of((40, [12.0] * 20), (120, [8.0] * 5), (136, [8.0] * 5))
    assert points[:, 0] == pytest.approx([40, 128]) and points[:, 1] == pytest.approx([12, 8])


def test_sigma_curve_few_patches_that_differ_are_drawn_to_the_sigma_of_all():
    differing = np.geomspace(12, 75, 10).tolist()  # median 30
    points = curve_of((40, [12.0] * 20), (184, differing[::2]), (200, differing[1::2]))
    assert points[0, 1] == pytest.approx(12) and 12 < points[1, 1] < 20


def test_sigma_curve_less_than_ten_patches_have_no_point():
    assert curve_of((40, [12.0] * 20), (100, [8.0] * 9))[:, 0] == pytest.approx([40])


def test_sigma_error_shrinks_with_the_number_of_photographs():
    rng = np.random.default_rng(0)
    images = [0.5 + rng.normal(0, 0.04, (128, 128, 3)) for _ in range(16)]
    few, many = (estimate_noise(images[:number]) for number in (1, 16))
    assert few.sigma_error is not None and many.sigma_error is not None
    assert (many.sigma_error < few.sigma_error / 2).all() and (many.sigma_error > 0.02 * many.sigma).all()


@pytest.mark.parametrize('seed', range(3))
def test_sigma_error_covers_the_true_sigma(seed):
    noise = estimate_noise([saturated_photograph(False, seed)[0]])
    assert noise.sigma_error is not None
    assert (np.abs(noise.sigma - 20) < noise.sigma_error).all()


def test_describe_sigma_says_how_sure_it_is():
    noise = camera_pairs()[1]

    def described(error: float | None) -> str:
        errors = None if error is None else np.full(3, error)
        return dataclasses.replace(noise, sigma=np.full(3, 10.0), sigma_error=errors).describe_sigma()

    assert described(0.42) == '10.0 ± 0.4 grey levels'
    assert described(3.1) == '10.0 ± 3.1 grey levels (measured in few flat areas: uncertain by about 30 %)'
    assert described(None) == '10.0 grey levels'


def test_noise_model_sigma_error_through_json_is_unchanged():
    noise = camera_pairs()[1]
    content = json.loads(json.dumps(noise.to_dict()))
    np.testing.assert_array_equal(NoiseModel.from_dict(content).sigma_error, noise.sigma_error)
    del content['sigma_error']  # written by an earlier version
    assert NoiseModel.from_dict(content).sigma_error is None


def test_describe_and_clean_say_how_sure_the_noise_is(tmp_path, capsys):
    write_photo(Photo(saturated_photograph(False)[0][:96, :96]), tmp_path / 'photos' / '0.png')
    sentence = 'measured in few flat areas: uncertain by about'
    assert sentence in describe(survey_files([tmp_path / 'photos']))
    main(['clean', str(tmp_path / 'photos'), '-o', str(tmp_path / 'out'), '--effort', 'instant'])
    assert sentence in capsys.readouterr().out
    assert sentence in (tmp_path / 'out' / 'report.html').read_text()


@pytest.fixture(params=['10_1', '10_5', '12_1', '16_25'])
def real_pair(request, real_pairs) -> Pair:
    """SIDD blocks with a blank area saturated at 249 (10_1, 10_5) and dark ones with few unclipped patches."""
    noisy, clean = (cv2.imread(str(Path(folder) / f'{request.param}.png'))[..., ::-1] for folder in real_pairs)
    return noisy, clean


@pytest.mark.real_data
@pytest.mark.parametrize('is_grey', [False, True])
def test_single_smartphone_photograph_loses_its_noise(real_pair, is_grey):
    noisy, clean = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if is_grey else image.copy() for image in real_pair)
    noise = estimate_noise([noisy])
    assert 0.9 < removed_fraction(noisy, clean, noise) < 1.1
    assert noise.sigma.mean() == pytest.approx((noisy - clean.astype(float)).std(), rel=0.4)
