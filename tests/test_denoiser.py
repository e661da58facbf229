"""Denoiser: tiles, shapes, precision, errors, and weights files of this version and the one before."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.io.checkpoint import build_network as build_checked
from basicsr_sassid.io.checkpoint import write_safetensors
from basicsr_sassid.io.photo import read_photo
from basicsr_sassid.utils.device import choose_dtype
from basicsr_sassid.utils.errors import UserError

from helpers import ANY_NETWORK, ROOT
from photo_scenes import scene, write_student

FORMAT_1 = Path(__file__).parent / 'fixtures' / 'format1'


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    return write_student(tmp_path_factory.mktemp('weights') / 'net_g.pth')


# ---- tiles, shapes, symmetries ----


def test_denoiser_tiled_with_default_overlap_is_the_untiled_result(weights):
    image = scene(611, 530).astype(np.float32) / 255
    untiled, tiled = (Denoiser(weights, precision='fp32', tile=tile)(image) * 255 for tile in (0, 128))
    assert np.abs(untiled - tiled).max() < 2e-3


def test_denoiser_tiled_without_overlap_has_seams(weights):
    image = scene(300, 260).astype(np.float32) / 255
    untiled, tiled = (
        Denoiser(weights, precision='fp32', **options)(image) * 255
        for options in ({'tile': 0}, {'tile': 128, 'overlap': 0})
    )
    assert np.abs(untiled - tiled).max() > 1


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize('shape', [(70, 45), (70, 45, 1), (70, 45, 3), (1, 1, 3), (33, 2, 3)])
def test_denoiser_any_shape_and_dtype_is_kept(weights, dtype, shape):
    deep = scene(*shape[:2], np.uint16, channels=1 if len(shape) == 2 else shape[2]).reshape(shape)
    image = {np.uint16: lambda: deep, np.uint8: lambda: (deep >> 8).astype(dtype)}.get(
        dtype, lambda: (deep / 65535).astype(dtype)
    )()
    before = image.copy()
    denoise = Denoiser(weights, precision='fp32')
    result = denoise(image)
    assert result.shape == shape and result.dtype == dtype
    assert np.array_equal(image, before), 'the input is unchanged'
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    # 8-bit input is coarser than 16-bit, nothing else differs
    expected = denoise((deep / 65535).astype(np.float32))
    assert np.abs(result / white - expected).max() < (3 / 255 if dtype == np.uint8 else 1e-4)


@pytest.mark.parametrize(
    'transform', [lambda x: np.rot90(x).copy(), lambda x: x[:, ::-1].copy()], ids=['turned', 'flipped']
)
def test_denoiser_self_ensemble_commutes_with_symmetries(weights, transform):
    denoise = Denoiser(weights, self_ensemble=True, precision='fp32')
    image = scene(64, 64).astype(np.float32) / 255
    np.testing.assert_allclose(denoise(transform(image)), transform(denoise(image)), atol=1e-5)


def test_denoiser_self_ensemble_differs_from_one_pass(weights):
    image = scene(64, 64).astype(np.float32) / 255
    ensemble, single = (Denoiser(weights, self_ensemble=flag, precision='fp32')(image) for flag in (True, False))
    assert np.abs(ensemble - single).max() > 1e-4


def test_denoiser_network_with_global_context_is_not_tiled(tmp_path):
    block = {'type': 'LAN', 'dim': 8, 'num_block': 2}
    torch.save({'params': build_network(block).state_dict(), 'network': block, 'img_range': 255}, tmp_path / 'lan.pth')
    image = scene(90, 70).astype(np.float32) / 255
    tiled, untiled = (Denoiser(tmp_path / 'lan.pth', precision='fp32', tile=tile)(image) for tile in (32, 0))
    assert np.array_equal(tiled, untiled)


# ---- errors ----


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (np.zeros((4, 4, 2), np.uint8), r'expected an image of shape .*, got \(4, 4, 2\)'),
        (np.zeros((4, 4), np.int64), 'expected uint8, uint16 or float'),
        (np.full((40, 40, 3), np.nan), 'not finite'),
    ],
)
def test_denoiser_unusable_image_raises_user_error(weights, image, message):
    with pytest.raises(UserError, match=message):
        Denoiser(weights)(image)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'tile': 100}, 'expected multiples of 32'),
        ({'overlap': 20}, 'expected multiples of 32'),
        ({'device': 'cuda'}, "device 'cuda'"),
        ({'precision': 'int8'}, 'precision: expected one of auto, fp32, bf16, fp16'),
        ({'inference': {'stride': 2}}, "key 'stride' was renamed: pd_b"),
        ({'key': 'params_ema'}, "has no 'params_ema'"),
    ],
)
def test_denoiser_unusable_option_raises_user_error(weights, options, message):
    with pytest.raises(UserError, match=message):
        Denoiser(weights, **options)


def test_denoiser_unknown_network_raises_user_error(tmp_path):
    torch.save({'params': {'weight': torch.zeros(2)}}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match='not of a network known here'):
        Denoiser(tmp_path / 'other.pth')


# ---- files ----


@pytest.mark.parametrize(
    ('name', 'network', 'inference'),
    [
        ('net_g_latest.pth', 'DenoisingUNet', {}),
        ('clean_student.safetensors', 'DenoisingUNet', {}),
        ('amsnet_g_latest.pth', 'EDSR', {'pd_b': 2, 'num_masks': 2, 'refinement': 'r3'}),
        ('apbsn_g_latest.pth', 'DBSNl', {'pd_b': 2, 'pd_pad': 2, 'refinement': 'r3', 'per_channel': True}),
    ],
)
def test_denoiser_file_of_format_1_is_read(name, network, inference):
    given = {'network': ANY_NETWORK} if network == 'EDSR' else {}
    denoise = Denoiser(FORMAT_1 / name, 'cpu', precision='fp32', **given)
    assert (type(denoise.net).__name__, denoise.img_range) == (network, 255)
    assert denoise.inference == InferenceConfig(**inference)
    assert denoise(scene(40, 50)).shape == (40, 50, 3)


def test_denoiser_file_of_format_1_prefers_the_average():
    content = torch.load(FORMAT_1 / 'net_g_latest.pth', weights_only=True)
    loaded = Denoiser(FORMAT_1 / 'net_g_latest.pth', 'cpu').net.state_dict()
    assert all(torch.equal(value, content['params_ema'][key]) for key, value in loaded.items())


@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
def test_denoiser_file_of_a_newer_format_is_refused(tmp_path, name):
    block = {'type': 'DenoisingUNet', 'dim': 4}
    card, state = {'network': block, 'img_range': 255, 'format': 3}, build_network(block).state_dict()
    if name.endswith('.pth'):
        torch.save({'params': state, **card}, tmp_path / name)
    else:
        write_safetensors(state, card, tmp_path / name)
    message = rf'^\S*{name} has format 3; this version reads up to 2. Upgrade basicsr_sassid.$'
    with pytest.raises(UserError, match=message):
        Denoiser(tmp_path / name)


@pytest.mark.parametrize(
    'block',
    [
        {'type': 'LAN', 'dim': 64, 'num_block': 2, 'reduction': 8},
        {'type': 'LAN', 'dim': 20, 'reduction': 3},
        {'type': 'LAN', 'dim': 64, 'num_block': 2},
        {'type': 'LAN', 'dim': 8, 'channel_attention': False},
        {'type': 'BNN', 'dim': 4},
        {'type': 'DenoisingUNet', 'dim': 4},
        {'type': 'DBSNl', 'dim': 8, 'num_module': 2},
    ],
    ids=lambda block: '-'.join(map(str, block.values())),
)
def test_denoiser_bare_state_dict_of_this_package_loads(tmp_path, block):
    state = build_checked(block, 'net').state_dict()
    torch.save(state, tmp_path / 'bare.pth')
    loaded = Denoiser(tmp_path / 'bare.pth', 'cpu').net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


# ---- precision and memory ----


def test_denoiser_fp32_is_the_network_rounded(weights):
    image = scene(90, 70)
    denoise = Denoiser(weights, 'cpu', precision='fp32')
    with torch.no_grad():
        prediction = denoise.net(torch.from_numpy(image).permute(2, 0, 1)[None].float())[0].permute(1, 2, 0)
    # scaled to [0, 1] and back: a value within a float's last bits of a half may round the other way
    assert np.abs(denoise(image) - prediction.clamp(0, 255).numpy()).max() < 0.5 + 1e-3


def test_denoiser_bf16_is_within_grey_levels_of_fp32(weights):
    image = scene(90, 70)
    half, exact = (Denoiser(weights, 'cpu', precision=precision)(image).astype(int) for precision in ('bf16', 'fp32'))
    assert 0 < np.abs(half - exact).mean() < 1.5


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='this system does not report the peak of a process')
def test_denoiser_large_photograph_stays_under_two_gib(tmp_path):
    """3680x2456 through the command line, network and libraries included.

    VmHWM is of this program alone; ru_maxrss would begin with the peak of the process that started it, the suite's.
    """
    cv2.imwrite(str(tmp_path / 'large.jpg'), np.tile(scene(307, 460), (8, 8, 1)))
    torch.save({'params': build_network({'type': 'DenoisingUNet', 'dim': 8}).state_dict()}, tmp_path / 'g.pth')
    code = (
        'import re; from sassid import main; '
        "main(['denoise', 'large.jpg', '-o', 'out.jpg', '--weights', 'g.pth']); "
        "print('peak', re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_photo(tmp_path / 'out.jpg').pixels.shape == (2456, 3680, 3)
    assert int(done.stdout.split('peak ')[1]) < 2 * 2**20  # KiB


@pytest.mark.parametrize(('capability', 'dtype'), [('AVX512', torch.bfloat16), ('AVX2', torch.float32)])
def test_choose_dtype_bfloat16_needs_kernels_that_multiply_it(capability, dtype, monkeypatch):
    """A processor with bfloat16 whose kernels are limited to AVX2 (ATEN_CPU_CAPABILITY) would emulate it."""
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: True)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    assert choose_dtype('auto', torch.device('cpu')) == dtype
