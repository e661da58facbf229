"""RRDBNet from files in the names of the first ESRGAN code, as ESRGAN's and SFD's x4 networks are published."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from basicsr_sassid import Denoiser, load_weights
from basicsr_sassid.io.author_checkpoints import convert_author_state_dict, infer_network_options
from basicsr_sassid.io.weights_card import OWN_NETWORKS
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from d2sm_scenes import NETWORK
from helpers import paired_dataset

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


# ---- path.pretrain_network_g of BasicSR's models ----


def built(folder, file, model_type='SFDModel', block=None, **path):
    """A model whose generator starts from ``file``, with a moving average, and with pixel_opt or the loss of D2SM."""
    semantic = {'sfd_opt': {'feature_weight': 0, 'text_weight': 0}, 'd2sm_opt': {**NETWORK, 'patch_size': None}}
    opt = {
        'name': 'esrgan',
        'model_type': model_type,
        'scale': 4,
        'num_gpu': 0,
        'manual_seed': 1,
        'path': {'pretrain_network_g': str(file), **path},
        'datasets': {'train': paired_dataset(folder, folder, gt_size=64, batch=1)},
        'network_g': block or {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 4, **SMALL},
        'train': {
            'total_iter': 2,
            'ema_decay': 0.9,
            'pixel_opt': {'type': 'L1Loss'},
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [1]},
            **{key: value for key, value in semantic.items() if model_type.lower().startswith(key.split('_')[0])},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 1},
    }
    return build_model(resolve_options(opt, folder, True))


@pytest.mark.parametrize('model_type', ['SFDModel', 'D2SMModel'])
@pytest.mark.parametrize('key', [None, 'params', 'params_ema'])
def test_pretrained_old_esrgan_file_gives_the_old_networks_output(key, model_type, tmp_path):
    old, x = OldNetwork(), torch.rand(2, 3, 13, 10)
    state = {f'module.{name}': value for name, value in old.state_dict().items()} if key else old.state_dict()
    torch.save({key: state} if key else state, tmp_path / 'esrgan.pth')
    model = built(tmp_path, tmp_path / 'esrgan.pth', model_type)
    with torch.no_grad():
        for net in (model.net_g, model.net_g_ema):
            torch.testing.assert_close(net(x), old(x), rtol=0, atol=0)


def test_pretrained_old_esrgan_file_without_strict_loads_what_fits(tmp_path):
    old = OldNetwork(blocks=1)
    torch.save(old.state_dict(), tmp_path / 'esrgan.pth')
    net = built(tmp_path, tmp_path / 'esrgan.pth', strict_load_g=False).net_g
    assert torch.equal(net.body[0].rdb1.conv1.weight, old.RRDB_trunk[0].RDB1.conv1.weight)


def test_pretrained_old_esrgan_file_of_another_size_names_both_networks(tmp_path):
    torch.save(OldNetwork(blocks=1).state_dict(), tmp_path / 'esrgan.pth')
    with pytest.raises(UserError, match=r'esrgan.pth does not fit RRDBNet.*num_block=1.*num_block=2.*body.1.rdb1'):
        built(tmp_path, tmp_path / 'esrgan.pth')


def test_pretrained_basicsr_file_loads_each_key(tmp_path):
    nets = {'params': small_net(), 'params_ema': small_net(), 'mine': small_net()}
    torch.save({key: net.state_dict() for key, net in nets.items()}, tmp_path / 'net_g.pth')
    for key, net in nets.items():
        model = built(tmp_path, tmp_path / 'net_g.pth', param_key_g=key)
        assert torch.equal(model.net_g.conv_first.weight, net.conv_first.weight)
        assert torch.equal(model.net_g_ema.conv_first.weight, nets['params_ema'].conv_first.weight)


def test_pretrained_bare_state_dict_loads(tmp_path):
    net = small_net()
    torch.save(net.state_dict(), tmp_path / 'net_g.pth')
    model = built(tmp_path, tmp_path / 'net_g.pth')
    assert torch.equal(model.net_g.conv_first.weight, net.conv_first.weight)
    assert torch.equal(model.net_g_ema.conv_first.weight, net.conv_first.weight)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (
            lambda: {'params': small_net(2).state_dict()},
            r'net_g.pth does not fit RRDBNet\. .*size mismatch .*conv_first',
        ),
        (
            lambda: {'weights': small_net().state_dict()},
            r"net_g.pth has no 'params'; it has weights\. Set path.param_key",
        ),
        (lambda: {'params': [1]}, r"net_g.pth: expected a state dict in 'params', found a list"),
    ],
)
def test_pretrained_basicsr_file_that_does_not_fit_raises_user_error(content, message, tmp_path):
    torch.save(content(), tmp_path / 'net_g.pth')
    with pytest.raises(UserError, match=message):
        built(tmp_path, tmp_path / 'net_g.pth')


def test_pretrained_file_of_a_network_with_the_old_names_is_not_mapped(tmp_path, monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'OldNetwork', OldNetwork)
    old = OldNetwork()
    torch.save({'params': old.state_dict()}, tmp_path / 'net_g.pth')
    net = built(tmp_path, tmp_path / 'net_g.pth', block={'type': 'OldNetwork'}).net_g
    assert torch.equal(net.conv_first.weight, old.conv_first.weight)


def test_pretrained_safetensors_load(tmp_path):
    source = small_net()
    save_file(source.state_dict(), tmp_path / 'net.safetensors')
    model = built(tmp_path, tmp_path / 'net.safetensors')
    for net in (model.net_g, model.net_g_ema):
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in net.state_dict().items())
