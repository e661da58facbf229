"""RRDBNet from files in the names of the first ESRGAN code, as ESRGAN's and SFD's x4 networks are published."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet
from torch import nn
from torch.nn import functional as F

from basicsr_sassid import Denoiser, load_weights
from basicsr_sassid.io.author_checkpoints import convert_author_state_dict, infer_network_options
from basicsr_sassid.io.weights_card import OWN_NETWORKS
from basicsr_sassid.utils.errors import UserError

SMALL = {'num_feat': 8, 'num_block': 2, 'num_grow_ch': 4}
UNSHUFFLE = {4: 1, 2: 2, 1: 4}  # scale -> factor by which RRDBNet shuffles its input down


def conv(num_in: int, num_out: int) -> nn.Conv2d:
    return nn.Conv2d(num_in, num_out, 3, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions, each on the input and all earlier outputs; 0.2 of the last one is added to the input."""

    def __init__(self, feat: int, grow: int) -> None:
        super().__init__()
        for number in range(1, 6):
            self.add_module(f'conv{number}', conv(feat + (number - 1) * grow, grow if number < 5 else feat))

    def forward(self, x):
        maps = [x]
        for number in range(1, 5):
            maps.append(F.leaky_relu(getattr(self, f'conv{number}')(torch.cat(maps, 1)), 0.2))
        return self.conv5(torch.cat(maps, 1)) * 0.2 + x


class ResidualInResidual(nn.Module):
    def __init__(self, feat: int, grow: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (DenseBlock(feat, grow) for _ in range(3))

    def forward(self, x):
        return self.RDB3(self.RDB2(self.RDB1(x))) * 0.2 + x


class OldNetwork(nn.Module):
    """The x4 network, written from the structure, under the names of the first ESRGAN code."""

    def __init__(self, num_in: int = 3, feat: int = 8, blocks: int = 2, grow: int = 4) -> None:
        super().__init__()
        self.conv_first = conv(num_in, feat)
        self.RRDB_trunk = nn.Sequential(*(ResidualInResidual(feat, grow) for _ in range(blocks)))
        self.trunk_conv, self.upconv1, self.upconv2, self.HRconv = (conv(feat, feat) for _ in range(4))
        self.conv_last = conv(feat, 3)

    def forward(self, x):
        first = self.conv_first(x)
        maps = first + self.trunk_conv(self.RRDB_trunk(first))
        for layer in (self.upconv1, self.upconv2):
            maps = F.leaky_relu(layer(F.interpolate(maps, scale_factor=2, mode='nearest')), 0.2)
        return self.conv_last(F.leaky_relu(self.HRconv(maps), 0.2))


def small_net(scale: int = 4) -> RRDBNet:
    return RRDBNet(3, 3, scale=scale, **SMALL)


@pytest.mark.parametrize('key', [None, 'params', 'params_ema'])
def test_load_weights_old_esrgan_file_gives_the_old_networks_output(key, tmp_path):
    old, net, x = OldNetwork(), small_net(), torch.rand(2, 3, 13, 10)
    state = old.state_dict()
    torch.save({key: state} if key else state, tmp_path / 'esrgan.pth')
    load_weights(net, tmp_path / 'esrgan.pth')
    with torch.no_grad():
        torch.testing.assert_close(net(x), old(x), rtol=0, atol=0)


@pytest.mark.parametrize('scale', [2, 1])
def test_load_weights_old_names_at_another_scale_give_the_output_on_unshuffled_images(scale, tmp_path):
    """The first code is x4 alone; RRDBNet's other scales are the same network behind a pixel-unshuffle."""
    factor = UNSHUFFLE[scale]
    old, net, x = OldNetwork(3 * factor**2), small_net(scale), torch.rand(1, 3, 16, 24)
    torch.save(old.state_dict(), tmp_path / 'esrgan.pth')
    load_weights(net, tmp_path / 'esrgan.pth')
    with torch.no_grad():
        torch.testing.assert_close(net(x), old(F.pixel_unshuffle(x, factor)), rtol=0, atol=0)


def test_load_weights_basicsr_file_loads_as_before(tmp_path):
    source, net, x = small_net(), small_net(), torch.rand(1, 3, 8, 8)
    torch.save({'params_ema': source.state_dict()}, tmp_path / 'net_g.pth')
    load_weights(net, tmp_path / 'net_g.pth')
    assert torch.equal(net(x), source(x))


def test_convert_author_state_dict_full_size_has_every_key_of_rrdbnet():
    with torch.device('meta'):
        old, net = OldNetwork(3, 64, 23, 32), build_network({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3})
    converted, expected = convert_author_state_dict(old.state_dict()), net.state_dict()
    assert {name: value.shape for name, value in converted.items()} == {k: v.shape for k, v in expected.items()}
    assert sum(value.numel() for value in converted.values()) == 16_697_987


def test_load_weights_old_file_of_another_size_names_both_networks(tmp_path):
    torch.save(OldNetwork().state_dict(), tmp_path / 'esrgan.pth')
    with pytest.raises(
        UserError,
        match=r'looks like RRDBNet\(.*num_block=2, num_grow_ch=4\).*num_block=3.*Missing from the file: body.2.rdb1',
    ):
        load_weights(RRDBNet(3, 3, num_feat=8, num_block=3, num_grow_ch=4), tmp_path / 'esrgan.pth')


def test_load_weights_old_file_with_an_unknown_key_names_it(tmp_path):
    torch.save({**OldNetwork().state_dict(), 'RRDB_trunk.0.RDB4.conv1.weight': torch.zeros(1)}, tmp_path / 'esrgan.pth')
    with pytest.raises(UserError, match=r'Not in the network: RRDB_trunk.0.RDB4.conv1.weight'):
        load_weights(small_net(), tmp_path / 'esrgan.pth')


@pytest.mark.parametrize('scale', [4, 2, 1])
def test_infer_network_options_rrdbnet_is_its_block(scale):
    block = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': scale, **SMALL}
    assert infer_network_options(build_network(block).state_dict()) == block


def test_denoiser_file_of_rrdbnet_is_not_built_on_its_word(tmp_path):
    torch.save(OldNetwork().state_dict(), tmp_path / 'esrgan.pth')
    assert 'RRDBNet' not in OWN_NETWORKS
    with pytest.raises(UserError, match=r"'RRDBNet', which is none of this package"):
        Denoiser(tmp_path / 'esrgan.pth')
