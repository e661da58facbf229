from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY

from basicsr_sassid import load_weights
from basicsr_sassid.ops.padding import pad_to_multiple
from basicsr_sassid.utils.errors import UserError

import reference


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(('block', 'parameters'), [
    ({'type': 'BNN'}, 1_268_547), ({'type': 'BNN', 'blind_size': 5}, 1_268_547), ({'type': 'DenoisingUNet'}, 1_083_747),
    ({'type': 'LAN'}, 94_939), ({'type': 'LAN', 'receptive_size': 1}, 58_011),
    ({'type': 'LAN', 'receptive_size': 7}, 168_795)])
def test_parameter_counts_of_the_paper(block, parameters):
    assert count(build_network(block)) == parameters


@pytest.mark.parametrize('blind_size', [1, 3, 5, 9, 11])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_bnn_sees_nothing_of_the_window_and_something_of_the_ring(blind_size, dtype):
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': blind_size}).to(dtype)
    height, width, radius = 43, 70, blind_size // 2  # neither square nor multiples of 32
    image = torch.rand(1, 3, height, width, dtype=dtype) * 255
    places = [(21, 35), (0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (2, 31), (height - 3, 33),
              (20, 1), (31, width - 2), (32, 32)]
    for y, x in places:
        window = slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)
        ring = slice(max(y - radius - 1, 0), y + radius + 2), slice(max(x - radius - 1, 0), x + radius + 2)
        with torch.no_grad():
            blind, tight = image.clone(), image.clone()
            blind[..., window[0], window[1]] = torch.nan
            tight[..., ring[0], ring[1]] = torch.nan
            tight[..., window[0], window[1]] = image[..., window[0], window[1]]
            assert net(blind)[..., y, x].isfinite().all(), f'sees inside the window of ({y}, {x})'
            assert net(tight)[..., y, x].isnan().all(), f'does not see the ring around ({y}, {x})'


def test_bnn_has_no_gradient_inside_the_window():
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': 7}).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    net(image)[0, :, 30, 17].sum().backward()
    seen = image.grad.abs().sum(dim=(0, 1)).nonzero()
    distance = (seen - torch.tensor([30, 17])).abs().amax(dim=1)
    assert distance.min() == 4


@pytest.mark.parametrize('size', [0, 2, 8, -3])
def test_even_sizes_are_refused(size):
    with pytest.raises(ValueError, match='blind_size: expected an odd number'):
        build_network({'type': 'BNN', 'blind_size': size})
    with pytest.raises(ValueError, match='receptive_size: expected an odd number'):
        build_network({'type': 'LAN', 'receptive_size': size})


@pytest.mark.parametrize('name', ['BNN', 'LAN', 'DenoisingUNet'])
@pytest.mark.parametrize('size', [(1, 1), (31, 33), (64, 96), (5, 100)])
def test_any_size_and_a_gradient(name, size):
    net = build_network({'type': name, 'dim': 8})
    output = net(torch.rand(2, 3, *size) * 255)
    assert output.shape == (2, 3, *size)
    output.abs().mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize('receptive_size', [1, 3, 5])
def test_lan_is_local_without_channel_attention(receptive_size):
    options = {'type': 'LAN', 'dim': 16, 'num_block': 2, 'receptive_size': receptive_size}
    image = torch.rand(1, 3, 20, 20)
    image[..., 10, 10] = torch.nan
    with torch.no_grad():
        local = build_network({**options, 'channel_attention': False})(image).isnan().any(dim=1)[0]
        gated = build_network(options)(image).isnan().any(dim=1)[0]
    assert local.sum() == receptive_size ** 2
    assert local[10 - receptive_size // 2:11 + receptive_size // 2,
                 10 - receptive_size // 2:11 + receptive_size // 2].all()
    assert gated.all(), 'the channel attention averages over the whole input'


def test_bnn_turns_with_the_image_if_its_fusion_is_turned():
    net = build_network({'type': 'BNN', 'dim': 4}).double()
    turned = build_network({'type': 'BNN', 'dim': 4}).double()
    state = net.state_dict()
    weight = state['fuse.0.weight']
    state['fuse.0.weight'] = weight.view(weight.shape[0], 4, -1).roll(1, dims=1).view_as(weight)
    turned.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.rot90(net(image), 1, (2, 3))
        assert min((turned(torch.rot90(image, 1, (2, 3))) - expected).abs().max(),
                   (turned(torch.rot90(image, 3, (2, 3))) - torch.rot90(net(image), 3, (2, 3))).abs().max()) < 1e-12


@pytest.mark.parametrize(('name', 'shapes', 'oracle'), [
    ('BNN', reference.official_unet_shapes(bnn=True), reference.bnn),
    ('DenoisingUNet', reference.official_unet_shapes(), reference.unet),
    ('LAN', reference.official_lan_shapes(), reference.lan)])
def test_checkpoints_with_the_authors_keys_give_their_output(tmp_path, name, shapes, oracle):
    state = reference.random_state(shapes)
    assert len(state) == {'BNN': 42, 'DenoisingUNet': 36, 'LAN': 56}[name]
    torch.save(state, tmp_path / f'{name}.pth')
    net = build_network({'type': name})
    load_weights(net, tmp_path / f'{name}.pth')
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    with torch.no_grad():
        expected = oracle({key: value.double() for key, value in state.items()}, image)
        assert (net.double()(image) - expected).abs().max() < 1e-8  # grey levels; the same function
        # in float32 the rounding of activations around 1,000 remains
        assert (net.float()(image.float()) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_official_lan_of_another_receptive_field(tmp_path):
    state = reference.random_state(reference.official_lan_shapes(7), torch.float64)
    torch.save(state, tmp_path / 'LAN.pth')
    net = build_network({'type': 'LAN', 'receptive_size': 7}).double()
    load_weights(net, tmp_path / 'LAN.pth')
    image = torch.rand(1, 3, 12, 17, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(image), reference.lan(state, image, 7), rtol=0, atol=1e-10)


def test_img_range_as_in_edsr():
    grey = build_network({'type': 'DenoisingUNet', 'dim': 4})
    unit = build_network({'type': 'DenoisingUNet', 'dim': 4, 'img_range': 255})
    unit.load_state_dict(grey.state_dict())
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(unit(image), grey(image * 255) / 255)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (40, 33), (32, 64)])
def test_padding_mirrors_as_numpy_does(size):
    import numpy as np
    image = torch.rand(1, 2, *size)
    padded = pad_to_multiple(image, 32, 'reflect')
    target = [(0, 0), (0, 0), (0, -size[0] % 32), (0, -size[1] % 32)]
    assert np.array_equal(padded.numpy(), np.pad(image.numpy(), target, mode='reflect'))


def test_load_weights_reads_what_others_write(tmp_path):
    source, target = (build_network({'type': 'DenoisingUNet', 'dim': 4}) for _ in range(2))
    average = build_network({'type': 'DenoisingUNet', 'dim': 4})
    path = tmp_path / 'net.pth'
    torch.save({'params': source.state_dict(), 'params_ema': average.state_dict()}, path)
    for key, expected in ((None, average), ('params', source), ('params_ema', average)):
        load_weights(target, path, key=key)
        assert torch.equal(target.head.weight, expected.head.weight)
    torch.save({f'module.{name}': value for name, value in source.state_dict().items()}, path)
    load_weights(target, path)
    assert torch.equal(target.head.weight, source.head.weight)


def test_load_weights_names_what_does_not_fit(tmp_path):
    path = tmp_path / 'net.pth'
    torch.save({'params': build_network({'type': 'DenoisingUNet', 'dim': 8}).state_dict()}, path)
    with pytest.raises(UserError, match=r'looks like DenoisingUNet\(.*dim=8.*dim=4.*another size'):
        load_weights(build_network({'type': 'DenoisingUNet', 'dim': 4}), path)
    with pytest.raises(UserError, match=r'does not fit LAN.*looks like DenoisingUNet'):
        load_weights(build_network({'type': 'LAN'}), path)
    with pytest.raises(UserError, match="has no 'params_ema'"):
        load_weights(build_network({'type': 'LAN'}), path, key='params_ema')
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match='no file of weights, or damaged'):
        load_weights(build_network({'type': 'LAN'}), path)
    with pytest.raises(UserError, match='no such file'):
        load_weights(build_network({'type': 'LAN'}), tmp_path / 'nothing.pth')


def test_our_names_are_in_the_registry_once():
    import basicsr_sassid  # noqa: F401  a second import must not register twice
    assert {'BNN', 'LAN', 'DenoisingUNet'} <= set(ARCH_REGISTRY.keys())


def test_an_official_file_whose_twins_differ_is_one_paragraph(tmp_path):
    state = reference.random_state(reference.official_unet_shapes(4, bnn=True))
    state['output_conv.weight'] = state['output_conv.weight'] + 1
    torch.save(state, tmp_path / 'BNN.pth')
    with pytest.raises(UserError, match=r'BNN.pth is damaged .*output_block.4.weight and its twin in output_conv'):
        load_weights(build_network({'type': 'BNN', 'dim': 4}), tmp_path / 'BNN.pth')


@pytest.mark.parametrize('size', [2, 0, 3.0, '3'])
def test_lan_wants_an_odd_number(size):
    with pytest.raises(ValueError, match='receptive_size: expected an odd number'):
        build_network({'type': 'LAN', 'receptive_size': size})
