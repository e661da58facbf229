"""Each metric against an implementation that shares nothing with it, and cases computed by hand."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_metric
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn import functional as F

from basicsr_sassid.utils.errors import UserError

C1, C2 = 6.5025, 58.5225  # (0.01 * 255)^2, (0.03 * 255)^2


def metric(name: str, a: np.ndarray, b: np.ndarray, **options) -> float:
    return calculate_metric({'img': a, 'img2': b}, {'type': f'calculate_{name}', 'crop_border': 0, **options})


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    clean = cv2.resize(rng.uniform(30, 220, (8, 9, 3)), (45, 37), interpolation=cv2.INTER_CUBIC)
    return tuple((clean + noise).clip(0, 255).round().astype(np.uint8) for noise in (rng.normal(0, 15, clean.shape), 0))


def formula(mean_x, mean_y, variance_x, variance_y, covariance):
    return (
        (2 * mean_x * mean_y + C1)
        * (2 * covariance + C2)
        / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))
    )


def test_psnr_of_basicsr_is_scikit_images(images):
    assert metric('psnr', *images) == pytest.approx(peak_signal_noise_ratio(*images[::-1], data_range=255), abs=1e-9)


def test_ssim_of_basicsr_is_scikit_images_with_a_gaussian_window(images):
    expected = structural_similarity(
        *(image.astype(float) for image in images),
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert metric('ssim', *images) == pytest.approx(expected, abs=1e-9)


def test_ssim_uniform_is_the_mean_over_windows(images):
    values = []
    for top in range(37 - 6):
        for left in range(45 - 6):
            for channel in range(3):
                x, y = (image[top : top + 7, left : left + 7, channel].astype(float).ravel() for image in images)
                values.append(formula(x.mean(), y.mean(), x.var(ddof=1), y.var(ddof=1), np.cov(x, y)[0, 1]))
    assert metric('ssim_uniform', *images) == pytest.approx(np.mean(values), abs=1e-9)


def test_ssim_matlab_is_one_dense_convolution(images):
    steps = np.arange(-5, 6)
    kernel = np.exp(-(steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    kernel = torch.from_numpy(kernel / kernel.sum())[None, None]

    def mean(volume):
        return F.conv3d(F.pad(volume, [5] * 6, mode='replicate'), kernel)

    x, y = (torch.from_numpy(image.astype(float))[None, None] for image in images)
    moments = (
        mean(x),
        mean(y),
        mean(x * x) - mean(x) ** 2,
        mean(y * y) - mean(y) ** 2,
        mean(x * y) - mean(x) * mean(y),
    )
    assert metric('ssim_matlab', *images) == pytest.approx(formula(*moments).mean().item(), abs=1e-9)


SSIMS = ['ssim', 'ssim_uniform', 'ssim_matlab']


@pytest.mark.parametrize('name', SSIMS)
def test_ssim_of_constant_images_is_as_by_hand(name):
    """They have no variance: what is left is (2ab + C1) / (a^2 + b^2 + C1)."""
    grey = [np.full((20, 24, 3), value, np.uint8) for value in (100, 120)]
    assert metric(name, *grey) == pytest.approx((2 * 100 * 120 + C1) / (100**2 + 120**2 + C1), abs=1e-7)


@pytest.mark.parametrize('name', SSIMS)
def test_ssim_of_equal_images_is_one(name, images):
    assert metric(name, images[0], images[0]) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize('name', SSIMS)
def test_ssim_is_symmetric(name, images):
    assert metric(name, *images) == pytest.approx(metric(name, *images[::-1]), abs=1e-12)


@pytest.mark.parametrize('name', SSIMS)
def test_ssim_channels_first_is_that_of_channels_last(name, images):
    chw = [image.transpose(2, 0, 1) for image in images]
    assert metric(name, *chw, input_order='CHW') == pytest.approx(metric(name, *images), abs=1e-12)


@pytest.mark.parametrize('name', SSIMS)
def test_ssim_crop_border_is_that_of_the_cropped_images(name, images):
    cropped = [image[4:-4, 4:-4] for image in images]
    assert metric(name, *images, crop_border=4) == pytest.approx(metric(name, *cropped), abs=1e-12)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ('name', 'published'), [('psnr', 19.636), ('ssim_matlab', 0.617), ('ssim', 0.428), ('ssim_uniform', 0.447)]
)
def test_metric_of_a_sidd_block_is_as_measured_elsewhere(real_pairs, name, published):
    """Block 293 of SIDD validation (image 10, block 5 of 32), with another implementation."""
    noisy, clean = (cv2.imread(str(folder / '10_5.png')) for folder in real_pairs)
    assert metric(name, noisy, clean) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize('name', ['ssim_uniform', 'ssim_matlab'])
def test_ssim_of_two_shapes_raises_user_error(name, images):
    with pytest.raises(UserError, match=r'two images of one shape, got \(37, 45, 3\) and \(30, 45, 3\)'):
        metric(name, images[0], images[1][:30])


@pytest.mark.parametrize('name', ['ssim_uniform', 'ssim_matlab'])
def test_ssim_unknown_order_raises_user_error(name, images):
    with pytest.raises(UserError, match='expected HWC or CHW'):
        metric(name, *images, input_order='WHC')


def test_ssim_uniform_image_smaller_than_the_window_raises_user_error(images):
    with pytest.raises(UserError, match='7 pixels a side or more'):
        metric('ssim_uniform', images[0][:6], images[1][:6])


def test_pyiqa_not_installed_raises_user_error(images, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    with pytest.raises(UserError, match=r"lpips: pyiqa is not installed. pip install 'basicsr_sassid\[iqa\]'"):
        metric('pyiqa', *images, metric='lpips')
