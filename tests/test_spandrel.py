"""Files of this package in spandrel: predictions equal to Denoiser's, and refusals."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from torch import Tensor

from basicsr_sassid import Denoiser
from basicsr_sassid.inference.subsampled import SINGLE_PASS
from basicsr_sassid.integrations.spandrel import install, load

from helpers import write_weights
from reference import official_unet_shapes, random_state

spandrel = pytest.importorskip('spandrel')
OURS = ('DenoisingUNet', 'LAN', 'BNN', 'DBSNl')
SMALL = {
    'DenoisingUNet': {'type': 'DenoisingUNet', 'dim': 4},
    'BNN': {'type': 'BNN', 'dim': 4},
    'LAN': {'type': 'LAN', 'dim': 8, 'num_block': 2, 'reduction': 4},
    'DBSNl': {'type': 'DBSNl', 'dim': 8, 'num_module': 2},
}


@pytest.fixture(autouse=True)
def _installed() -> None:
    install()


def _pass_image(state: dict[str, Tensor], layers: tuple[str, ...], first_in: int, head: str, bias: float) -> None:
    """Change weights so that the prediction is the image plus a few grey levels: a trained network in miniature."""
    for number, layer in enumerate(layers):
        weight, middle = state[f'{layer}.weight'], state[f'{layer}.weight'].shape[-1] // 2
        weight[:3] *= 0.002  # what else the network computes still counts
        for channel in range(3):
            weight[channel, (first_in if number == 0 else 0) + channel, middle, middle] = 1
        state[f'{layer}.bias'][:3] = 0
    state[f'{head}.weight'] *= 0.02
    state[f'{head}.weight'][:, :3, 0, 0] = torch.eye(3)
    state[f'{head}.bias'].fill_(bias)


def _trained(kind: str = 'DenoisingUNet', bias: float = 1.0) -> dict[str, Tensor]:
    """``bias``: of the last layer, in the network's range. In grey levels 1 is slight; in [0, 1] it is white."""
    state = build_network(SMALL[kind]).state_dict()
    if kind == 'DenoisingUNet':  # the image is the last input of the finest level
        _pass_image(state, ('trunk.decode.4.0', 'trunk.decode.4.2'), 8, 'head', bias)
    elif kind == 'LAN':
        state['tail.weight'] *= 0.02
        _pass_image(state, ('stem.0', 'stem.2'), 0, 'head', bias)
    return state


def _student(path: Path, **card) -> Path:
    return write_weights(path, _trained(), **{'network': SMALL['DenoisingUNet'], 'img_range': 255, **card})


def _image(height: int = 37, width: int = 31) -> Tensor:
    return torch.rand(1, 3, height, width)


def _by_denoiser(path: Path, image: Tensor, **settings) -> Tensor:
    pixels = image[0].permute(1, 2, 0).numpy()
    denoised = Denoiser(path, device='cpu', precision='fp32', **settings)(pixels)
    return torch.from_numpy(np.ascontiguousarray(denoised)).permute(2, 0, 1)[None]


def _grey_levels_apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.float() - b).abs().max() * 255)


# ---- ModelLoader ----


@pytest.mark.parametrize('kind', ['DenoisingUNet', 'LAN'])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_modelloader_file_of_this_package_predicts_as_denoiser(tmp_path, kind, suffix):
    path = write_weights(tmp_path / f'net{suffix}', _trained(kind), network=SMALL[kind], img_range=255)
    image = _image()
    assert _grey_levels_apart(spandrel.ModelLoader().load_from_file(path)(image), _by_denoiser(path, image)) < 0.01


@pytest.mark.parametrize('size', [(1, 1), (33, 5), (64, 32)])
def test_modelloader_student_any_size_predicts_as_denoiser(tmp_path, size):
    path, image = _student(tmp_path / 'student.safetensors'), _image(*size)
    assert _grey_levels_apart(spandrel.ModelLoader().load_from_file(path)(image), _by_denoiser(path, image)) < 0.01


def test_modelloader_author_checkpoint_predicts_as_denoiser(tmp_path):
    state = random_state(official_unet_shapes(dim=4))
    _pass_image(state, ('decode_block_1.0', 'decode_block_1.2'), 8, 'output_conv', bias=1.0)
    torch.save(state, tmp_path / 'UNet.pth')
    image = _image()
    denoised = spandrel.ModelLoader().load_from_file(tmp_path / 'UNet.pth')(image)
    assert _grey_levels_apart(denoised, _by_denoiser(tmp_path / 'UNet.pth', image)) < 0.01


def _residual_student(path: Path, bias: float = 1.0, **card) -> Path:
    network = {**SMALL['DenoisingUNet'], 'residual': True}
    state = build_network(network).state_dict()
    state['head.weight'].normal_(0, 0.01)
    state['head.bias'].fill_(bias)
    return write_weights(path, state, **{'network': network, 'img_range': 255, **card})


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_modelloader_residual_student_predicts_as_denoiser(tmp_path, suffix):
    path, image = _residual_student(tmp_path / f'student{suffix}'), _image()
    denoised = spandrel.ModelLoader().load_from_file(path)(image)
    assert _grey_levels_apart(denoised, _by_denoiser(path, image)) < 0.01
    assert 0.5 < _grey_levels_apart(denoised, image) < 30


def test_modelloader_residual_student_of_the_unit_range_is_refused(tmp_path):
    path = _residual_student(tmp_path / 'student.pth', bias=0.02, img_range=1)
    with pytest.raises(spandrel.UnsupportedModelError, match=r'grey levels \[0, 255\] or in \[0, 1\]'):
        spandrel.ModelLoader().load_from_file(path)


def test_modelloader_student_half_precision_is_within_a_grey_level(tmp_path):
    path, image = _student(tmp_path / 'student.safetensors'), _image()
    denoised = spandrel.ModelLoader().load_from_file(path).half()(image.half())
    assert _grey_levels_apart(denoised, _by_denoiser(path, image)) < 1


def test_modelloader_student_bfloat16_is_refused(tmp_path):
    descriptor = spandrel.ModelLoader().load_from_file(_student(tmp_path / 'student.safetensors'))
    with pytest.raises(spandrel.UnsupportedDtypeError):
        descriptor.bfloat16()


def test_modelloader_module_alone_takes_the_unit_range(tmp_path):
    """What a program exports is the module."""
    descriptor = spandrel.ModelLoader().load_from_file(_student(tmp_path / 'student.safetensors'))
    image = _image()
    assert descriptor.model(image).clamp(0, 1).equal(descriptor(image))


def test_modelloader_lan_is_not_tiled(tmp_path):
    path = write_weights(tmp_path / 'lan.pth', _trained('LAN'))
    assert spandrel.ModelLoader().load_from_file(path).tiling is spandrel.ModelTiling.INTERNAL


# ---- what a state dict does not determine ----


def test_modelloader_student_of_the_unit_range_is_refused(tmp_path):
    """It returns the image in both ranges, 5 grey levels apart."""
    path = write_weights(tmp_path / 'student.pth', _trained(bias=0.02), network=SMALL['DenoisingUNet'], img_range=1)
    with pytest.raises(spandrel.UnsupportedModelError, match=r'grey levels \[0, 255\] or in \[0, 1\].*load\(path\)'):
        spandrel.ModelLoader().load_from_file(path)


def test_modelloader_student_alike_in_both_ranges_loads(tmp_path):
    path, image = write_weights(tmp_path / 'student.pth', _trained(bias=0), img_range=1), _image()
    assert _grey_levels_apart(spandrel.ModelLoader().load_from_file(path)(image), _by_denoiser(path, image)) < 1


def test_modelloader_untrained_network_is_refused(tmp_path):
    path = write_weights(tmp_path / 'untrained.pth', build_network(SMALL['DenoisingUNet']).state_dict())
    with pytest.raises(spandrel.UnsupportedModelError, match='does not return a test image'):
        spandrel.ModelLoader().load_from_file(path)


@pytest.mark.parametrize(('kind', 'unknown'), [('BNN', 'blind_size'), ('DBSNl', 'passes')])
def test_modelloader_network_with_hidden_settings_is_refused(tmp_path, kind, unknown):
    path = write_weights(
        tmp_path / 'net.pth', build_network(SMALL[kind]).state_dict(), network=SMALL[kind], img_range=255
    )
    with pytest.raises(spandrel.UnsupportedModelError, match=unknown):
        spandrel.ModelLoader().load_from_file(path)


# ---- load ----


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize(
    ('network', 'img_range'),
    [
        (SMALL['DenoisingUNet'], 1),
        ({**SMALL['DenoisingUNet'], 'img_range': 255}, 1),
        ({**SMALL['DenoisingUNet'], 'residual': True}, 255),
        (SMALL['LAN'], 255),
        ({**SMALL['BNN'], 'blind_size': 5}, 255),
        (SMALL['DBSNl'], 1),
    ],
)
def test_load_settings_of_the_file_predicts_as_denoiser(tmp_path, network, img_range, suffix):
    state = build_network(network).state_dict()
    state = {name: torch.rand_like(value) if name.endswith('.bias') else value for name, value in state.items()}
    path, image = (write_weights(tmp_path / f'net{suffix}', state, network=network, img_range=img_range), _image())
    assert _grey_levels_apart(load(path)(image), _by_denoiser(path, image)) < 0.01


def test_load_average_in_the_file_is_taken(tmp_path):
    path, image = _student(tmp_path / 'student.pth', params_ema=_trained(bias=9.0)), _image()
    assert _grey_levels_apart(load(path)(image), _by_denoiser(path, image)) < 0.01


def test_load_given_range_predicts_as_denoiser(tmp_path):
    path, image = write_weights(tmp_path / 'student.pth', _trained(bias=0.02)), _image()
    assert _grey_levels_apart(load(path, img_range=1)(image), _by_denoiser(path, image, img_range=1)) < 0.01


def test_load_unknown_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match='img_range=255 or img_range=1'):
        load(write_weights(tmp_path / 'student.pth', _trained(bias=0.02)))


def test_load_network_of_several_passes_is_refused(tmp_path):
    with pytest.raises(ValueError, match='several passes'):
        load(_student(tmp_path / 'student.pth', inference={'pd_b': 2}))


def test_load_inference_of_one_plain_pass_predicts_as_denoiser(tmp_path):
    path, image = _student(tmp_path / 'student.pth', inference=SINGLE_PASS.model_dump()), _image()
    assert _grey_levels_apart(load(path)(image), _by_denoiser(path, image)) < 0.01


def test_load_bnn_with_another_blind_size_than_in_training_is_refused(tmp_path):
    state = build_network(SMALL['BNN']).state_dict()
    path = write_weights(tmp_path / 'net.pth', state, network=SMALL['BNN'], inference={'blind_size': 3})
    with pytest.raises(ValueError, match="another blind size .*'blind_size': 3.*one plain pass"):
        load(path)


def test_load_network_of_another_package_is_refused(tmp_path):
    network = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 4, 'num_block': 1, 'upscale': 1}
    with pytest.raises(ValueError, match='EDSR'):
        load(write_weights(tmp_path / 'net.pth', build_network(network).state_dict(), network=network))


def test_load_weights_of_another_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match='does not fit'):
        load(_student(tmp_path / 'student.pth', network={'type': 'DenoisingUNet', 'dim': 8}))


# ---- the registry ----


def test_install_twice_adds_nothing():
    assert install() == []


def test_install_registry_keeps_every_other_architecture():
    ids = [support.architecture.id for support in spandrel.MAIN_REGISTRY]
    assert [name for name in ids if name.startswith('basicsr_sassid.')] == [f'basicsr_sassid.{kind}' for kind in OURS]


@pytest.mark.parametrize(
    ('network', 'expected'),
    [
        ({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 1}, 'ESRGAN'),
        ({'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_conv': 2}, 'Compact'),
    ],
)
def test_install_network_of_another_package_loads_as_before(tmp_path, network, expected):
    path = write_weights(tmp_path / 'net.pth', build_network(network).state_dict())
    assert spandrel.ModelLoader().load_from_file(path).architecture.id == expected


@pytest.mark.parametrize('kind', OURS)
def test_install_state_dict_of_ours_is_detected_by_one_architecture(kind):
    state = build_network(SMALL[kind]).state_dict()
    assert [support.architecture.id for support in spandrel.MAIN_REGISTRY if support.detect(state)] == [
        f'basicsr_sassid.{kind}'
    ]


@pytest.mark.parametrize(
    'state',
    [
        {'stem.0.weight': torch.zeros(8, 3, 1, 1), 'head.weight': torch.zeros(10, 8)},
        {'branch1.body.0.weight': torch.zeros(8), 'tail.6.weight': torch.zeros(8)},
        {'encode_block_1.0.weight': torch.zeros(8), 'decode_block_1.0.weight': torch.zeros(8)},
        {'epoch': 3, 'model_weight': {}},
    ],
    ids=['classifier', 'branches', 'blocks', 'checkpoint'],
)
def test_install_our_names_with_other_shapes_are_not_detected(state):
    assert not any(
        support.detect(state)
        for support in spandrel.MAIN_REGISTRY
        if support.architecture.id.startswith('basicsr_sassid.')
    )


@pytest.mark.parametrize('call', [install, lambda: load('student.safetensors')], ids=['install', 'load'])
def test_spandrel_not_installed_error_names_the_command(monkeypatch, call):
    monkeypatch.setitem(sys.modules, 'spandrel', None)
    with pytest.raises(ValueError, match=r"pip install 'basicsr_sassid\[spandrel\]'"):
        call()
