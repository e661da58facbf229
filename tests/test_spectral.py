"""SpectralDenoiser: quality on simulated and real noise, shapes, tiles."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from basicsr.metrics import calculate_psnr

from basicsr_sassid import SpectralDenoiser, estimate_noise
from basicsr_sassid.noise.model import MAX_LAG
from basicsr_sassid.utils.errors import UserError

from noise_scenes import camera_pairs


def mean_psnr(denoise, pairs) -> float:
    return float(np.mean([calculate_psnr(denoise(noisy), clean, 0) for noisy, clean in pairs]))


def blur(sigma):
    return lambda image: cv2.GaussianBlur(image, (0, 0), sigma)


def test_spectral_denoiser_exceeds_every_blur_by_700_millibels():
    pairs, noise = camera_pairs()
    assert (
        mean_psnr(SpectralDenoiser(noise), pairs)
        > max(mean_psnr(blur(sigma), pairs) for sigma in (1, 1.5, 2, 2.5, 3)) + 0.7
    )


def test_spectral_denoiser_with_measured_spectrum_exceeds_white_assumption_by_two_decibels():
    pairs, noise = camera_pairs()
    white = np.zeros_like(noise.cross_correlation)
    white[range(3), range(3), MAX_LAG, MAX_LAG] = 1
    assumed = SpectralDenoiser(dataclasses.replace(noise, cross_correlation=white))
    assert mean_psnr(SpectralDenoiser(noise), pairs) > mean_psnr(assumed, pairs) + 2


@pytest.mark.parametrize(
    'convert',
    [
        lambda x: x,
        lambda x: x.astype(np.uint16) * 257,
        lambda x: x / 255.0,
        lambda x: x[..., :1],
        lambda x: x[..., 0],
        lambda x: x[:5, :3],
    ],
)
def test_spectral_denoiser_any_image_keeps_shape_and_dtype(convert):
    pairs, noise = camera_pairs()
    image = convert(pairs[0][0][:150, :170])
    result = SpectralDenoiser(noise)(image)
    assert result.shape == image.shape and result.dtype == image.dtype


def test_spectral_denoiser_two_channels_raise_user_error():
    with pytest.raises(UserError, match='expected an image of shape'):
        SpectralDenoiser(camera_pairs()[1])(np.zeros((4, 4, 2)))


def test_spectral_denoiser_in_tiles_has_no_seams():
    pairs, noise = camera_pairs()
    untiled = SpectralDenoiser(noise)(pairs[0][0]).astype(int)
    tiled = SpectralDenoiser(noise, tile=128)(pairs[0][0]).astype(int)
    assert np.abs(tiled - untiled).mean() < 0.5
    across_border = [np.abs(np.diff(image[:, [127, 128]], axis=1)).mean() for image in (tiled, untiled)]
    assert across_border[0] == pytest.approx(across_border[1], rel=0.1)


@pytest.mark.slow
@pytest.mark.real_data
def test_spectral_denoiser_smartphone_noise_exceeds_every_blur_by_one_decibel(real_pairs):
    pairs = [
        [cv2.imread(str(path))[..., ::-1] for path in files]
        for files in list(zip(*(sorted(folder.glob('*.png')) for folder in real_pairs)))[::16]
    ]
    denoise = SpectralDenoiser(estimate_noise([noisy for noisy, _ in pairs]))
    assert mean_psnr(denoise, pairs) > max(mean_psnr(blur(sigma), pairs) for sigma in (2, 2.5, 3, 4)) + 1
