"""Network, settings and role in a weights file; the network that the user names."""

from __future__ import annotations

import json
import time

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from safetensors.torch import save_file
from torch import nn

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.denoiser import load_for_inference, teacher_note
from basicsr_sassid.io.checkpoint import save_weights
from basicsr_sassid.io.weights_card import OWN_NETWORKS, parse_network
from basicsr_sassid.utils.errors import UserError
from sassid import main

from helpers import ANY_NETWORK
from photo_scenes import write_student

SMALL = {
    'DenoisingUNet': {'type': 'DenoisingUNet', 'dim': 4, 'img_range': 1.0, 'residual': True},
    'LAN': {'type': 'LAN', 'dim': 8, 'num_block': 1, 'channel_attention': False},
    'BNN': {'type': 'BNN', 'dim': 4, 'blind_size': 5},
    'DBSNl': {'type': 'DBSNl', 'dim': 8, 'num_module': 1},
    'FFDNet': {'type': 'FFDNet', 'num_feat': 8, 'num_conv': 3, 'sigma': 25.0},
}


def write(path, network, state=None, **settings):
    state = build_network(network).state_dict() if state is None else state
    save_weights({'params': state, 'network': network, 'img_range': 255, **settings}, path)
    return path


def write_plain(path, **settings):
    """A file of another program: no digest."""
    block = SMALL['LAN']
    state, card = build_network(block).state_dict(), {'network': block, 'img_range': 255, **settings}
    if path.suffix == '.safetensors':
        save_file(state, path, {key: json.dumps(value) for key, value in card.items()})
    else:
        torch.save({'params': state, **card}, path)
    return path


class Spy(nn.Conv2d):
    """A registered network that reads a path, as BasicSR's SpyNet does."""

    paths: list[str] = []

    def __init__(self, load_path: str = '', **anything) -> None:
        super().__init__(3, 3, 1)
        self.paths.append(load_path)


if 'Spy' not in ARCH_REGISTRY:
    ARCH_REGISTRY.register(Spy)


@pytest.mark.parametrize('name', OWN_NETWORKS)
def test_load_for_inference_network_of_this_package_is_built(tmp_path, name):
    loaded = load_for_inference(write(tmp_path / 'net.pth', SMALL[name]))
    assert type(loaded.net).__name__ == name


@pytest.mark.parametrize(
    'network',
    [
        {'type': 'Spy', 'load_path': '/etc/passwd'},
        {'type': 'SpyNet', 'load_path': '/etc/passwd'},
        {'type': ['Spy']},
        {'type': None},
        {'type': 'Spy\x1b[2J' * 99},
    ],
    ids=lambda network: str(network)[:20],
)
def test_load_for_inference_another_network_of_a_file_is_not_built(tmp_path, network):
    path = write(tmp_path / 'net.pth', network, nn.Conv2d(3, 3, 1).state_dict())
    with pytest.raises(UserError, match=r'net.pth names the network .* not built on the word of a file') as error:
        load_for_inference(path)
    text = str(error.value)
    assert Spy.paths == [] and '\n' not in text and '\x1b' not in text and '/etc/passwd' not in text


def test_load_for_inference_another_network_is_built_as_the_error_says(tmp_path):
    path = write(tmp_path / 'net.pth', {**ANY_NETWORK, 'rgb_mean': [0.4, 0.5, 0.6]}, inference={'pd_b': 2})
    with pytest.raises(UserError, match='--network') as error:
        load_for_inference(path)
    given = parse_network(str(error.value).split("--network '")[1].split("'")[0])
    assert given == {**ANY_NETWORK, 'rgb_mean': [0.4, 0.5, 0.6]}
    loaded = load_for_inference(path, network=given)
    assert (type(loaded.net).__name__, loaded.img_range, loaded.config.pd_b) == ('EDSR', 255, 2)


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ({'dim': 10**9}, r'network.dim: expected a whole number from 0 to 4096, got 1000000000'),
        ({'num_block': 10**9}, r'network.num_block: expected a whole number from 0 to 4096'),
        ({'num_block': '../weights'}, r"network.num_block: expected a whole number .*, got '../weights'"),
        ({'dim': True}, 'network.dim: expected a whole number .*, got True'),
        ({'dim': 10**400}, r'network.dim: expected a whole number .*\.\.\.$'),
        ({'dim': -1}, 'network.dim: expected a whole number'),
        ({'dim': [4] * 1000}, r'network.dim: expected a whole number .*\.\.\.$'),
        ({'channel_attention': 1}, 'network.channel_attention: expected true or false, got 1'),
        ({'load_path': '/etc/passwd'}, "network: unknown key 'load_path'"),
        ({'reduction': 0}, 'LAN does not take these arguments: ZeroDivisionError'),
        ({'dim': 4096, 'num_block': 64}, 'does not fit LAN'),
        ({'num_block': 2}, 'does not fit LAN.*Missing from the file: blocks.1'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_load_for_inference_argument_of_a_file_is_checked_before_building(tmp_path, argument, message):
    block = {'type': 'LAN', 'dim': 8, 'num_block': 1}
    path = write(tmp_path / 'net.pth', {**block, **argument}, build_network(block).state_dict())
    started = time.monotonic()
    with pytest.raises(UserError, match=message):
        load_for_inference(path)
    assert time.monotonic() - started < 2


def test_load_for_inference_float_argument_of_a_file_is_a_number_above_0(tmp_path):
    state = build_network({'type': 'DenoisingUNet', 'dim': 4}).state_dict()
    path = write(tmp_path / 'net.pth', {'type': 'DenoisingUNet', 'dim': 4, 'img_range': 0}, state)
    with pytest.raises(UserError, match='network.img_range: expected a number above 0, up to 1000000, got 0'):
        load_for_inference(path)


def test_spandrel_load_network_of_a_file_is_checked_too(tmp_path):
    pytest.importorskip('spandrel')
    from basicsr_sassid.integrations.spandrel import load

    state = build_network({'type': 'LAN', 'dim': 8}).state_dict()
    with pytest.raises(UserError, match='network.dim: expected a whole number from 0 to 4096'):
        load(write(tmp_path / 'net.pth', {'type': 'LAN', 'dim': 10**9}, state))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('NAFNet', {'type': 'NAFNet'}), ('{type: EDSR, num_feat: 8}', {'type': 'EDSR', 'num_feat': 8})],
)
def test_parse_network_is_a_block_or_a_name(text, expected):
    assert parse_network(text) == expected


@pytest.mark.parametrize('text', ['', '5', '[EDSR]', '{dim: 4}', '{type: 3}', '{type', '!!python/object:os.system {}'])
def test_parse_network_anything_else_is_refused(text):
    with pytest.raises(UserError, match=r"^--network: expected '{type: NAME, ...}', got "):
        parse_network(text)


# ---- settings ----


@pytest.mark.parametrize('suffix', ('.pth', '.safetensors'))
@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'img_range': '255'}, "img_range: expected a number, got '255'"),
        ({'img_range': 0}, 'img_range: expected a number > 0, got 0'),
        ({'img_range': -1.0}, 'img_range: expected a number > 0'),
        ({'img_range': float('inf')}, 'img_range: .*finite number, got inf'),
        ({'img_range': 10**400}, 'img_range: '),
        ({'img_range': True}, 'img_range: expected a number, got True'),
        ({'network': 'LAN'}, "network: expected a block of keys, got 'LAN'"),
        ({'network': [1]}, 'network: expected a block of keys'),
        ({'inference': 'pd_b'}, 'inference: expected a block of keys'),
        ({'inference': {'stride': 100000}}, 'inference.pd_b: expected a number <= 64, got 100000'),
        ({'inference': {'pd_b': 2.5}}, 'inference.pd_b: expected a whole number'),
        ({'inference': {'num_masks': 10**9}}, 'inference.num_masks: expected a number <= 256'),
        ({'inference': {'pd_pad': 10**9}}, 'inference.pd_pad: expected a number <= 256'),
        ({'inference': {'r3_t': 10**9}}, 'inference.r3_t: expected a number <= 1024'),
        ({'inference': {'r3_p': float('nan')}}, 'inference.r3_p: expected a finite number'),
        ({'inference': {'refinement': ['r3']}}, 'inference.refinement: expected one of none, second_pass, r3'),
        ({'inference': {'multiple_of': 10**6}}, 'inference.multiple_of: expected a number <= 4096'),
        ({'inference': {'seed': 2**64}}, 'inference.seed: expected a number <'),
        ({'inference': {'blind_size': [5, 4]}}, 'inference.blind_size: expected 0, an odd number up to 127, or two of'),
        ({'inference': {'run': 'rm'}}, "inference: unknown key 'run'"),
    ],
)
def test_load_for_inference_setting_out_of_range_is_named(tmp_path, suffix, settings, message):
    path = write_plain(tmp_path / f'net{suffix}', **settings)
    with pytest.raises(UserError, match=message):
        load_for_inference(path)


@pytest.mark.parametrize('img_range', [0, -1, float('nan')])
def test_denoiser_img_range_out_of_range_is_named(tmp_path, img_range):
    with pytest.raises(UserError, match='img_range: expected a number above 0, got'):
        Denoiser(write(tmp_path / 'net.pth', SMALL['LAN']), 'cpu', img_range=img_range)


# ---- teachers ----


@pytest.mark.parametrize(
    ('name', 'settings', 'expected'),
    [
        ('BNN', {}, True),
        ('LAN', {}, True),
        ('LAN', {'role': 'lan'}, True),
        ('LAN', {'role': 'g'}, False),
        ('DenoisingUNet', {'role': 'g'}, False),
        ('DenoisingUNet', {'role': 'teacher'}, True),
        ('DBSNl', {'role': 'bsn'}, False),
        ('DenoisingUNet', {}, False),
    ],
)
def test_denoiser_teacher_is_known_by_its_role_or_network(tmp_path, name, settings, expected):
    denoise = Denoiser(write(tmp_path / 'net.pth', SMALL[name], **settings), 'cpu')
    assert denoise.is_teacher is expected
    assert (teacher_note(denoise, 'net.pth') is not None) is expected


@pytest.mark.parametrize('command', ['denoise', 'clean'])
@pytest.mark.parametrize('is_teacher', [False, True])
def test_command_with_a_teachers_weights_says_so_in_one_line(tmp_path, capsys, command, is_teacher):
    import cv2
    import numpy as np

    weights = tmp_path / 'net.pth'
    write_student(weights)
    if is_teacher:
        write(weights, {'type': 'DenoisingUNet', 'dim': 4}, torch.load(weights)['params'], role='bnn')
    noisy = np.random.default_rng(0).integers(90, 160, (64, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), noisy)
    main([command, str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--weights', str(weights), '--device', 'cpu'])
    error = capsys.readouterr().err
    assert ('holds a teacher (DenoisingUNet)' in error) is is_teacher
    assert error.count('net_g_*.pth') == int(is_teacher)


def test_training_writes_role_and_digest(tmp_path, photographs):
    from helpers import tiny_options, trained

    trained(tiny_options(photographs, ema_decay=0.9), tmp_path)
    models = tmp_path / 'experiments/tiny/models'
    for name in ('bnn', 'lan', 'g'):
        content = torch.load(models / f'net_{name}_latest.pth', weights_only=True)
        assert content['role'] == name and set(content['digest']) == {'params', 'params_ema', 'settings'}
        assert Denoiser(models / f'net_{name}_latest.pth', 'cpu').is_teacher is (name != 'g')


def test_training_repeated_writes_equal_bytes(tmp_path, photographs):
    from helpers import tiny_options, trained

    for run in ('one', 'two'):
        trained(tiny_options(photographs), tmp_path / run)
    one, two = (tmp_path / run / 'experiments/tiny/models/net_g_latest.pth' for run in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()
