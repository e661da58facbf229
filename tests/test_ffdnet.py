"""FFDNet: parameters, cost, any size, the noise-level map."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch.nn import functional as F

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.export import export_onnx
from basicsr_sassid.io.checkpoint import save_weights
from basicsr_sassid.utils.errors import UserError

SMALL = {'type': 'FFDNet', 'num_feat': 8, 'num_conv': 3}


def test_ffdnet_parameters_are_the_published_number():
    assert sum(parameter.numel() for parameter in build_network({'type': 'FFDNet'}).parameters()) == 852_108


def test_ffdnet_grey_has_15_layers_of_64():
    """The grey configuration of the paper: 5 -> 64, thirteen times 64 -> 64, 64 -> 4, without batch normalisation."""
    net = build_network({'type': 'FFDNet', 'num_in_ch': 1, 'num_feat': 64, 'num_conv': 15})
    by_hand = (5 * 9 + 1) * 64 + 13 * (64 * 9 + 1) * 64 + (64 * 9 + 1) * 4
    assert sum(parameter.numel() for parameter in net.parameters()) == by_hand


@pytest.mark.parametrize('size', [(1, 1), (7, 12), (16, 16), (31, 33)])
def test_ffdnet_takes_any_size(size):
    assert build_network(SMALL)(torch.rand(2, 4, *size)).shape == (2, 3, *size)


def test_ffdnet_of_an_even_size_is_the_network_of_sub_images():
    """The formulation of the paper: four sub-images and one map of half the size."""
    net, x = build_network(SMALL), torch.rand(1, 4, 8, 10)
    image, level = x[:, :3], x[:, 3:]
    sub_images = torch.stack([image[..., i::2, j::2] for i in range(2) for j in range(2)], dim=2).flatten(1, 2)
    y = net.body(torch.cat([sub_images, F.interpolate(level, scale_factor=0.5, mode='area')], dim=1))
    expected = torch.zeros(1, 3, 8, 10)
    for number, (i, j) in enumerate((i, j) for i in range(2) for j in range(2)):
        expected[..., i::2, j::2] = y[:, number::4]
    torch.testing.assert_close(net(x), expected)


def test_ffdnet_option_sigma_stands_for_a_map_of_it():
    torch.manual_seed(0)
    net = build_network({**SMALL, 'sigma': 51})
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(net(x), net(torch.cat([x, torch.full((1, 1, 8, 8), 0.2)], dim=1)))


def test_ffdnet_noise_level_changes_the_prediction():
    net, x = build_network(SMALL), torch.rand(1, 3, 8, 8)
    first, second = (net(torch.cat([x, torch.full((1, 1, 8, 8), level)], dim=1)) for level in (0.0, 0.3))
    assert (first - second).abs().max() > 1e-4


def test_ffdnet_without_a_map_raises_value_error():
    with pytest.raises(ValueError, match='expected 4 channels, the last one the noise-level map, got 3. Set noise_map'):
        build_network(SMALL)(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'num_conv': 1}, 'num_conv: expected a whole number >= 2, got 1'),
        ({'num_feat': 0}, 'num_feat: expected a whole number >= 1, got 0'),
        ({'num_in_ch': 1.5}, 'num_in_ch: expected a whole number >= 1, got 1.5'),
        ({'sigma': 0}, 'sigma: expected a number above 0, up to 255'),
        ({'sigma': 300}, 'sigma: expected a number above 0, up to 255'),
        ({'sigma': '25'}, "sigma: expected a number above 0, up to 255 .* got '25'"),
        ({'sigma': True}, 'sigma: expected a number above 0, up to 255 .* got True'),
    ],
)
def test_ffdnet_bad_option_raises_value_error(option, message):
    with pytest.raises(ValueError, match=message):
        build_network({**SMALL, **option})


def test_ffdnet_convolutions_start_orthogonal():
    weight = build_network({'type': 'FFDNet'}).body[2].weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(96), rtol=0, atol=1e-5)


def test_ffdnet_file_denoises_with_its_sigma(tmp_path):
    """A weights file of this package names the network; the Denoiser gives images without a map."""
    network = {**SMALL, 'sigma': 25.0}
    net = build_network(network)
    save_weights({'params': net.state_dict(), 'network': network, 'img_range': 1.0}, tmp_path / 'net_g.pth')
    noisy = np.random.default_rng(0).random((20, 21, 3), np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(noisy).permute(2, 0, 1)[None])[0].permute(1, 2, 0).clamp(0, 1).numpy()
    np.testing.assert_allclose(Denoiser(tmp_path / 'net_g.pth', 'cpu', precision='fp32')(noisy), expected, atol=1e-5)


def test_denoiser_of_ffdnet_without_a_noise_level_raises_user_error(tmp_path):
    net = build_network(SMALL)
    save_weights({'params': net.state_dict(), 'network': SMALL, 'img_range': 1.0}, tmp_path / 'net_g.pth')
    with pytest.raises(
        UserError, match=r"FFDNet needs the noise level .*--network '{type: FFDNet, num_feat: 8, sigma: 25}'"
    ):
        Denoiser(tmp_path / 'net_g.pth', 'cpu')


@pytest.mark.slow
def test_export_of_ffdnet_takes_images_without_a_map(tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    network = {**SMALL, 'sigma': 25.0}
    net = build_network(network)
    save_weights({'params': net.state_dict(), 'network': network, 'img_range': 1.0}, tmp_path / 'net_g.pth')
    export_onnx(tmp_path / 'net_g.pth', tmp_path / 'net.onnx')
    image = np.random.default_rng(0).random((1, 3, 21, 34), np.float32)
    result = onnxruntime.InferenceSession(tmp_path / 'net.onnx').run(None, {'lq': image})[0]
    with torch.no_grad():
        np.testing.assert_allclose(result, net(torch.from_numpy(image)).numpy(), atol=1e-4)
