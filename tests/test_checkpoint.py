"""Weights files: what is read, what does not fit, what is written."""

from __future__ import annotations

import json

import pytest
import torch
from basicsr.archs import build_network
from safetensors import safe_open

from basicsr_sassid import load_weights
from basicsr_sassid.io.author_checkpoints import infer_network_options
from basicsr_sassid.io.checkpoint import build_network as build_checked
from basicsr_sassid.io.checkpoint import read_weights, state_dict_of, write_safetensors
from basicsr_sassid.utils.errors import UserError

import reference

UNET = {'type': 'DenoisingUNet', 'dim': 4}
UNET_LAYER = 'head.weight'


@pytest.fixture
def two_states(tmp_path) -> tuple[dict, dict]:
    """``params`` and ``params_ema`` of net.pth."""
    params, average = (build_network(UNET).state_dict() for _ in range(2))
    torch.save({'params': params, 'params_ema': average}, tmp_path / 'net.pth')
    return params, average


@pytest.mark.parametrize(('key', 'number'), [(None, 1), ('params', 0), ('params_ema', 1)])
def test_load_weights_key_chooses_the_state(tmp_path, two_states, key, number):
    net = build_network(UNET)
    load_weights(net, tmp_path / 'net.pth', key=key)
    assert torch.equal(net.head.weight, two_states[number][UNET_LAYER])


def test_load_weights_of_a_wrapped_module_drops_its_prefix(tmp_path):
    source, net = build_network(UNET), build_network(UNET)
    torch.save({f'module.{name}': value for name, value in source.state_dict().items()}, tmp_path / 'net.pth')
    load_weights(net, tmp_path / 'net.pth')
    assert torch.equal(net.head.weight, source.head.weight)


def test_load_weights_not_strict_loads_what_fits(tmp_path):
    state = build_network(UNET).state_dict()
    torch.save({'params': {UNET_LAYER: state[UNET_LAYER], 'other': torch.zeros(1)}}, tmp_path / 'net.pth')
    net = build_network(UNET)
    load_weights(net, tmp_path / 'net.pth', strict=False)
    assert torch.equal(net.head.weight, state[UNET_LAYER])


@pytest.mark.parametrize(
    ('block', 'key', 'message'),
    [
        ({'type': 'DenoisingUNet', 'dim': 8}, None, r'looks like DenoisingUNet\(.*dim=4.*dim=8.*another size'),
        ({'type': 'LAN'}, None, r'does not fit LAN.*looks like DenoisingUNet'),
        (UNET, 'params_ema', "has no 'params_ema'; it has params"),
    ],
)
def test_load_weights_that_do_not_fit_raise_user_error(tmp_path, block, key, message):
    torch.save({'params': build_network(UNET).state_dict()}, tmp_path / 'net.pth')
    with pytest.raises(UserError, match=message):
        load_weights(build_network(block), tmp_path / 'net.pth', key=key)


@pytest.mark.parametrize('content', [b'', b'no file of torch', b'PK\x03\x04'])
def test_load_weights_damaged_file_raises_user_error(tmp_path, content):
    (tmp_path / 'net.pth').write_bytes(content)
    with pytest.raises(UserError, match='no file of weights, or damaged'):
        load_weights(build_network(UNET), tmp_path / 'net.pth')


def test_load_weights_cut_off_file_raises_user_error(tmp_path, two_states):
    path = tmp_path / 'net.pth'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match='no file of weights, or damaged'):
        load_weights(build_network(UNET), path)


@pytest.mark.parametrize(('content', 'message'), [([1], 'it holds a list'), ({'epoch': 3}, 'holds no weights')])
def test_state_dict_of_file_without_weights_raises_user_error(tmp_path, content, message):
    torch.save(content, tmp_path / 'net.pth')
    with pytest.raises(UserError, match=message):
        state_dict_of(read_weights(tmp_path / 'net.pth'), tmp_path / 'net.pth')


def test_read_weights_missing_file_raises_user_error(tmp_path):
    with pytest.raises(UserError, match='weights: no such file'):
        read_weights(tmp_path / 'nothing.pth')


def test_read_weights_rewritten_file_is_read_again(tmp_path, two_states):
    read_weights(tmp_path / 'net.pth')
    torch.save({'params': {'other': torch.zeros(1)}}, tmp_path / 'net.pth')
    assert read_weights(tmp_path / 'net.pth')['params'].keys() == {'other'}


def test_write_safetensors_and_read_weights_return_state_and_settings(tmp_path):
    state = build_network(UNET).state_dict()
    write_safetensors(state, {'network': UNET, 'img_range': 255}, tmp_path / 'net.safetensors')
    content = read_weights(tmp_path / 'net.safetensors')
    assert (content['network'], content['img_range'], content['format']) == (UNET, 255, 2)
    assert all(torch.equal(value, content['params'][key]) for key, value in state.items())


def test_write_safetensors_card_is_json(tmp_path):
    write_safetensors({'weight': torch.zeros(1)}, {'noise': {'sigma': [1, 2]}}, tmp_path / 'net.safetensors')
    with safe_open(tmp_path / 'net.safetensors', 'pt') as file:
        assert json.loads(file.metadata()['noise']) == {'sigma': [1, 2]}


def test_build_network_unknown_key_raises_user_error():
    with pytest.raises(UserError, match="^network_g: unknown key 'dims'. Did you mean 'dim'"):
        build_checked({'type': 'DenoisingUNet', 'dims': 4}, 'network_g')


# ---- checkpoints of the SASSID authors ----


@pytest.mark.parametrize(
    ('name', 'shapes', 'expected'),
    [
        ('BNN', reference.official_unet_shapes(bnn=True), reference.bnn),
        ('DenoisingUNet', reference.official_unet_shapes(), reference.unet),
        ('LAN', reference.official_lan_shapes(), reference.lan),
    ],
    ids=['BNN', 'DenoisingUNet', 'LAN'],
)
def test_load_weights_author_checkpoint_predicts_as_the_reference(tmp_path, name, shapes, expected):
    state = reference.random_state(shapes)
    torch.save(state, tmp_path / f'{name}.pth')
    net = build_network({'type': name})
    load_weights(net, tmp_path / f'{name}.pth')
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64) * 255
    with torch.no_grad():
        truth = expected({key: value.double() for key, value in state.items()}, image)
        assert (net.double()(image) - truth).abs().max() < 1e-8  # grey levels; the same function
        # in float32 the rounding of activations around 1,000 remains
        assert (net.float()(image.float()) - truth).abs().max() < 1e-5 * truth.abs().max()


@pytest.mark.parametrize(
    ('shapes', 'count'),
    [
        (reference.official_unet_shapes(bnn=True), 42),
        (reference.official_unet_shapes(), 36),
        (reference.official_lan_shapes(), 56),
    ],
    ids=['BNN', 'UNet', 'LAN'],
)
def test_reference_state_has_the_published_number_of_tensors(shapes, count):
    assert len(reference.random_state(shapes)) == count


def test_load_weights_author_lan_of_another_receptive_size_predicts_as_the_reference(tmp_path):
    state = reference.random_state(reference.official_lan_shapes(7), torch.float64)
    torch.save(state, tmp_path / 'LAN.pth')
    net = build_network({'type': 'LAN', 'receptive_size': 7}).double()
    load_weights(net, tmp_path / 'LAN.pth')
    image = torch.rand(1, 3, 12, 17, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(image), reference.lan(state, image, 7), rtol=0, atol=1e-10)


def test_load_weights_author_checkpoint_whose_copies_differ_raises_user_error(tmp_path):
    state = reference.random_state(reference.official_unet_shapes(4, bnn=True))
    state['output_conv.weight'] = state['output_conv.weight'] + 1
    torch.save(state, tmp_path / 'BNN.pth')
    with pytest.raises(UserError, match=r'BNN.pth is damaged .*output_block.4.weight and its copy in output_conv'):
        load_weights(build_network({'type': 'BNN', 'dim': 4}), tmp_path / 'BNN.pth')


# ---- the network of a state dict ----


@pytest.mark.parametrize(
    ('block', 'expected'),
    [
        (
            {'type': 'LAN'},
            {
                'type': 'LAN',
                'num_in_ch': 3,
                'num_out_ch': 3,
                'dim': 64,
                'receptive_size': 3,
                'num_block': 6,
                'channel_attention': True,
            },
        ),
        (
            {'type': 'LAN', 'reduction': 8, 'num_block': 2, 'receptive_size': 5},
            {
                'type': 'LAN',
                'num_in_ch': 3,
                'num_out_ch': 3,
                'dim': 64,
                'receptive_size': 5,
                'num_block': 2,
                'channel_attention': True,
                'reduction': 8,
            },
        ),
        ({'type': 'BNN', 'dim': 4}, {'type': 'BNN', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 4}),
        (UNET, {**UNET, 'num_in_ch': 3, 'num_out_ch': 3}),
        (
            {'type': 'DBSNl', 'dim': 8, 'num_module': 2},
            {'type': 'DBSNl', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 8, 'num_module': 2},
        ),
    ],
    ids=['LAN', 'LAN-8', 'BNN', 'UNet', 'DBSNl'],
)
def test_infer_network_options_of_this_package_is_its_block(block, expected):
    assert infer_network_options(build_network(block).state_dict()) == expected


def test_infer_network_options_of_another_network_is_none():
    assert infer_network_options({'weight': torch.zeros(2)}) is None
