"""The images that Denoiser, SpectralDenoiser, BlendedDenoiser, estimate_noise and sigma_map take, and refuse alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid import Denoiser, SpectralDenoiser, estimate_noise
from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.sure import monte_carlo_sure
from basicsr_sassid.noise.sigma_map import sigma_map
from basicsr_sassid.ops.arrays import RANGE_TOLERANCE, checked_image
from basicsr_sassid.utils.errors import UserError

from noise_scenes import camera_pairs

DENOISERS = ('network', 'spectral', 'blended')
WHITE = {'uint8': 255, 'uint16': 65535, '>u2': 65535}


@pytest.fixture(scope='module')
def entries(tmp_path_factory) -> dict[str, Callable]:
    """Every public function that takes an image."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('contract') / 'net.pth'
    block = {'type': 'LAN', 'dim': 8, 'num_block': 1}
    torch.save({'params': build_network(block).state_dict(), 'network': block, 'img_range': 255}, path)
    noise = camera_pairs()[1]
    network, spectral = Denoiser(path, 'cpu', precision='fp32'), SpectralDenoiser(noise)
    return {
        'network': network,
        'spectral': spectral,
        'blended': BlendedDenoiser(spectral, network, 0.5, keep_colour=True),
        'estimate_noise': lambda image: estimate_noise([image]),
        'sigma_map': lambda image: sigma_map(image, noise),
    }


def noisy(shape: tuple[int, ...] = (48, 40, 3)) -> np.ndarray:
    return np.random.default_rng(0).normal(0.5, 0.08, shape).clip(0, 1)


UNUSABLE = {
    'grey levels': (noisy() * 255, r'floats in \[0, 1\], found \S+ to \d+\S*; divide by 255$'),
    '16-bit levels': (noisy() * 65535, 'divide by the value of white'),
    'overshoot': (noisy() - 0.5, r'found -0\.\d+ to 0\.\d+; clip an overshoot with image.clip\(0, 1\)'),
    'int32': ((noisy() * 255).astype(np.int32), r'uint8, uint16 or float in \[0, 1\], got int32'),
    'int64': ((noisy() * 255).astype(np.int64), 'got int64'),
    'bool': (noisy() > 0.5, 'got bool'),
    'complex': (noisy().astype(complex), 'got complex128'),
    'object': (noisy().astype(object), 'got object'),
    'NaN': (np.where(noisy() > 0.7, np.nan, noisy()), 'not finite'),
    'infinity': (np.where(noisy() > 0.7, np.inf, noisy()), 'not finite'),
    'list': (noisy().tolist(), r'expected a NumPy array, got a list: give np.asarray\(image\)'),
    'PIL': (PIL.Image.fromarray(np.zeros((40, 40, 3), np.uint8)), r'got a PIL image: give np.asarray\(image\)'),
    'tensor': (torch.zeros(3, 40, 40), r'got a torch tensor: give .*permute\(1, 2, 0\)'),
    'nothing': (None, 'got a value of type NoneType'),
    'no pixels': (np.zeros((0, 40, 3)), r'\(H, W\), \(H, W, 1\) or \(H, W, 3\), got \(0, 40, 3\)'),
    'four axes': (np.zeros((1, 40, 40, 3)), r'got \(1, 40, 40, 3\)'),
    'alpha': (np.zeros((40, 40, 4), np.uint8), r'got \(40, 40, 4\)'),
    'channels first': (np.zeros((3, 40, 40), np.uint8), r'got \(3, 40, 40\)'),
}


@pytest.mark.parametrize('entry', [*DENOISERS, 'estimate_noise', 'sigma_map'])
def test_unusable_image_raises_the_same_user_error_everywhere(entries, entry):
    for name, (image, message) in UNUSABLE.items():
        with pytest.raises(UserError) as expected:
            checked_image(image)
        with pytest.raises(UserError, match=message) as found:
            entries[entry](image)
        assert str(found.value) == str(expected.value) and '\n' not in str(found.value), name


@pytest.mark.parametrize('entry', DENOISERS)
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', '>u2', 'float16', 'float32', '>f4', 'float64'])
@pytest.mark.parametrize('shape', [(48, 40), (48, 40, 1), (48, 40, 3), (3, 2, 3)])
def test_denoisers_keep_shape_dtype_and_range(entries, entry, dtype, shape):
    white = WHITE.get(dtype, 1)
    image = (noisy(shape) * white).astype(dtype)
    before = image.copy()
    result = entries[entry](image)
    assert (result.shape, result.dtype) == (shape, np.dtype(dtype))
    assert np.array_equal(image, before), 'the input is unchanged'
    expected = entries[entry]((image / white).astype(np.float32))
    assert np.abs(result / white - expected).max() < (1.1 / 255 if dtype == 'uint8' else 3e-3)


@pytest.mark.parametrize('entry', DENOISERS)
def test_denoisers_floats_that_rounding_moved_out_of_range_are_clipped(entries, entry):
    image = np.where(noisy() > 0.5, 1 + 0.9 * RANGE_TOLERANCE, -0.9 * RANGE_TOLERANCE)
    result, expected = entries[entry](image), entries[entry](image.clip(0, 1))
    assert result.min() >= 0 and result.max() <= 1
    assert np.abs(result - expected).max() < 0.1


@pytest.mark.parametrize('convert', [lambda x: (x * 255).round().astype(np.uint8), lambda x: x, lambda x: x[..., 0]])
def test_sigma_map_any_image_has_three_channels_in_grey_levels(entries, convert):
    image = noisy()
    result = entries['sigma_map'](convert(image))
    assert result.shape == image.shape and result == pytest.approx(entries['sigma_map'](image), rel=0.3)


@pytest.mark.parametrize('entry', DENOISERS[:2])
def test_monte_carlo_sure_probes_may_leave_the_range(entries, entry):
    image = noisy((64, 64, 3)).astype(np.float32)
    image[:32] = 0
    assert np.isfinite(monte_carlo_sure(entries[entry], [image], camera_pairs()[1]))
