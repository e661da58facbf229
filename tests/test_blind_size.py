"""Blind size in prediction: InferenceConfig, weights files, Denoiser, self-ensemble, trainings, the command line."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid import Denoiser
from basicsr_sassid.evaluation.schema import DenoiserOptions
from basicsr_sassid.inference.subsampled import SINGLE_PASS, InferenceConfig, subsampled_inference
from basicsr_sassid.io.checkpoint import save_weights, write_safetensors
from basicsr_sassid.ops.dihedral import dihedral, dihedral_inverse
from basicsr_sassid.utils.blind_size import parse_blind_size
from basicsr_sassid.utils.errors import UserError
from sassid import main

from helpers import ANY_NETWORK, subsampled_options, tiny_options, trained, tree
from photo_scenes import scene

BNN = {'type': 'BNN', 'dim': 4}
IMAGE = scene(40, 52).astype(np.float32) / 255
EXPECTED = 'expected 0, an odd number up to 127, or two of them (height, width), got '


def write(path: Path, block: dict, **settings) -> Path:
    torch.manual_seed(1)
    content = {'network': block, 'img_range': 255, **settings}
    state = build_network(block).state_dict()
    if path.suffix == '.pth':
        save_weights({'params': state, **content}, path)
    else:
        write_safetensors(state, content, path)
    return path


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp('weights') / 'net_bnn.pth', BNN)


def denoised(weights: Path, image: np.ndarray = IMAGE, **settings) -> np.ndarray:
    return Denoiser(weights, 'cpu', precision='fp32', **settings)(image)


# ---- InferenceConfig ----


@pytest.mark.parametrize(
    ('value', 'blind_size'), [(None, None), (0, 0), (3, 3), (127, 127), ([5, 9], (5, 9)), ((9, 1), (9, 1))]
)
def test_inference_config_blind_size_survives_a_file(value, blind_size):
    config = InferenceConfig.parse({'pd_b': 2, 'blind_size': value}, 'inference')
    assert config.blind_size == blind_size
    assert InferenceConfig.from_file(config.model_dump(), 'net.pth') == config
    assert InferenceConfig.from_file(json.loads(json.dumps(config.model_dump())), 'net.safetensors') == config


@pytest.mark.parametrize('value', [2, -1, 129, True, 3.0, '3', [3], [0, 3], [3, 4], [3, True], [[3], 3], {'a': 1}])
def test_inference_config_blind_size_out_of_range_raises_user_error(value):
    with pytest.raises(UserError, match=f'^{re.escape(f"inference.blind_size: {EXPECTED}{value!r}")}$'):
        InferenceConfig.parse({'blind_size': value}, 'inference')


def test_inference_config_dump_without_blind_size_is_as_before():
    """Earlier versions refuse an unknown key, and a teacher's cache is named by the dump."""
    assert 'blind_size' not in SINGLE_PASS.model_dump() and 'pd_pad' in SINGLE_PASS.model_dump()


@pytest.mark.parametrize(('blind_size', 'turned'), [((5, 9), (9, 5)), (3, 3), (None, None)])
def test_inference_config_of_turned_image_has_height_and_width_exchanged(blind_size, turned):
    config = InferenceConfig(pd_b=3, blind_size=blind_size)
    assert config.of_turned_image() == InferenceConfig(pd_b=3, blind_size=turned)


@pytest.mark.parametrize(
    'keys', [{}, {'pd_b': 2, 'refinement': 'second_pass'}, {'num_masks': 2, 'refinement': 'r3'}], ids=str
)
def test_subsampled_inference_every_pass_has_the_blind_size(keys):
    sizes = []

    def net(y: torch.Tensor, blind_size: object = None) -> torch.Tensor:
        sizes.append(blind_size)
        return y

    subsampled_inference(net, torch.rand(1, 3, 8, 8), InferenceConfig(**keys, blind_size=(5, 9)))
    assert set(sizes) == {(5, 9)}


def test_denoiser_options_of_an_evaluation_take_a_blind_size():
    options = DenoiserOptions.parse({'type': 'denoiser', 'weights': 'x', 'blind_size': [5, 9]}, 'methods.a')
    assert options.denoiser_arguments() == {'blind_size': (5, 9)}


# ---- Denoiser ----


@pytest.mark.parametrize('blind_size', [0, 3, 9, (1, 9)], ids=str)
def test_denoiser_blind_size_is_the_networks(weights, blind_size):
    net = build_network(BNN)
    net.load_state_dict(torch.load(weights, weights_only=True)['params'])
    with torch.no_grad():
        x = torch.from_numpy(IMAGE * 255).permute(2, 0, 1)[None]
        expected = (net(x, blind_size)[0].permute(1, 2, 0) / 255).clamp(0, 1).numpy()
    np.testing.assert_allclose(denoised(weights, blind_size=blind_size), expected, atol=1e-6)


def test_denoiser_default_blind_size_is_the_trained_one(weights):
    assert np.array_equal(denoised(weights), denoised(weights, blind_size=9))
    assert not np.array_equal(denoised(weights), denoised(weights, blind_size=3))


def test_denoiser_blind_size_replaces_that_of_inference(weights):
    for inference in ({'pd_b': 2, 'blind_size': 5}, InferenceConfig(pd_b=2, blind_size=5)):
        assert Denoiser(weights, 'cpu', inference=inference).inference.blind_size == 5
        denoise = Denoiser(weights, 'cpu', inference=inference, blind_size=3)
        assert denoise.inference == InferenceConfig(pd_b=2, blind_size=3)


@pytest.mark.parametrize('name', ['net.pth', 'net.safetensors'])
def test_denoiser_blind_size_of_the_file_is_applied(tmp_path, weights, name):
    inference = InferenceConfig(blind_size=(5, 9)).model_dump()
    path = write(tmp_path / name, BNN, inference=inference)
    assert np.array_equal(denoised(path), denoised(weights, blind_size=(5, 9)))


def test_denoiser_self_ensemble_exchanges_the_sides_for_turned_views(weights):
    x = torch.from_numpy(IMAGE).permute(2, 0, 1)[None] * 255
    net = Denoiser(weights, 'cpu', precision='fp32').net
    with torch.no_grad():
        views = [
            dihedral_inverse(net(dihedral(x, turns, flip), (9, 1) if turns % 2 else (1, 9)), turns, flip)
            for turns, flip in product(range(4), (False, True))
        ]
    expected = (torch.stack(views).mean(0)[0].permute(1, 2, 0) / 255).clamp(0, 1).numpy()
    result = denoised(weights, self_ensemble=True, blind_size=(1, 9))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_denoiser_self_ensemble_of_the_turned_image_has_the_turned_blind_neighbourhood(weights):
    image = IMAGE[:32, :32].copy()  # the network pads at the bottom and at the right
    upright, turned = (
        denoised(weights, view, self_ensemble=True, blind_size=size)
        for view, size in ((image, (1, 9)), (np.rot90(image).copy(), (9, 1)))
    )
    np.testing.assert_allclose(np.rot90(upright), turned, atol=1e-5)
    unswapped = denoised(weights, np.rot90(image).copy(), self_ensemble=True, blind_size=(1, 9))
    assert np.abs(np.rot90(upright) - unswapped).max() > 1e-3


@pytest.mark.parametrize('block', [{'type': 'DenoisingUNet', 'dim': 4}, {'type': 'LAN', 'dim': 8, 'num_block': 2}])
@pytest.mark.parametrize('settings', [{'blind_size': 3}, {'inference': {'blind_size': [1, 3]}}], ids=str)
def test_denoiser_blind_size_for_a_network_without_one_raises_user_error(tmp_path, block, settings):
    path = write(tmp_path / 'net.pth', block)
    message = rf'^blind_size: expected a network whose .* \(BNN, .*\), got {block["type"]}. Leave blind_size out, or'
    with pytest.raises(UserError, match=message):
        Denoiser(path, 'cpu', **settings)


@pytest.mark.parametrize('value', [2, True, 3.0, (3, 4), 129])
def test_denoiser_blind_size_out_of_range_raises_user_error(weights, value):
    with pytest.raises(UserError, match=f'^{re.escape(f"blind_size: {EXPECTED}{value!r}")}$'):
        Denoiser(weights, 'cpu', blind_size=value)


# ---- trainings ----


def options(photographs: Path, network: dict, blind_size: object, has_student: bool = False) -> dict:
    opt = subsampled_options(photographs, 'AMSNetModel', pd_a=2)
    opt['datasets']['train']['patch_size'] = 64
    opt['network_bsn'], opt['inference'] = network, {'blind_size': blind_size}
    if has_student:
        opt['network_g'] = {'type': 'DenoisingUNet', 'dim': 4}
        opt['train']['stages']['unet'] = {**opt['train']['stages']['bsn']}
    return opt


def test_train_blind_size_of_inference_is_kept_in_the_weights(photographs, tmp_path):
    model = trained(options(photographs, BNN, [5, 9]), tmp_path)
    path = tmp_path / 'experiments/AMSNetModel/models/net_bsn_latest.pth'
    assert Denoiser(path, 'cpu').inference == model.inference
    assert model.inference.blind_size == (5, 9)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (
            (ANY_NETWORK, 3),
            r'^inference.blind_size: expected a network whose .*, got EDSR. Leave inference.blind_size out',
        ),
        ((BNN, [5, 9], True), r'^inference.blind_size: expected one number for a teacher, .*, got \(5, 9\)'),
    ],
    ids=['another network', 'teacher'],
)
def test_train_blind_size_that_cannot_be_used_is_refused(photographs, tmp_path, settings, message):
    before = tree(tmp_path)
    with pytest.raises(UserError, match=message):
        trained(options(photographs, *settings), tmp_path)
    assert tree(tmp_path) == before


def test_train_student_of_a_teacher_file_with_unequal_sides_is_refused(photographs, tmp_path):
    path = write(tmp_path / 'teacher.pth', BNN, inference={'blind_size': [5, 9]})
    opt = {**tiny_options(photographs), 'model_type': 'DistilledModel', 'network_teacher': BNN}
    del opt['network_bnn'], opt['network_lan'], opt['train']['stages']['bnn'], opt['train']['stages']['lan']
    opt['path'] = {'pretrain_network_teacher': str(path)}
    with pytest.raises(UserError, match=r'^path.pretrain_network_teacher: inference.blind_size: expected one number'):
        trained(opt, tmp_path)


# ---- command line ----


@pytest.mark.parametrize(('text', 'blind_size'), [('0', 0), ('3', 3), ('5x9', (5, 9)), ('9x9', (9, 9))])
def test_parse_blind_size_is_height_by_width(text, blind_size):
    assert parse_blind_size(text, '--blind-size') == blind_size


@pytest.mark.parametrize('text', ['', '2', '-3', '3.0', 'x', '5x', '5x9x3', '0x3', '4x4', '129', 'auto', '9' * 5000])
def test_denoise_command_blind_size_out_of_range_is_one_paragraph(weights, tmp_path, capsys, text):
    cv2.imwrite(str(tmp_path / 'a.png'), scene(32, 32))
    with pytest.raises(SystemExit) as stop:
        main(['denoise', str(tmp_path / 'a.png'), '-o', 'x', '--weights', str(weights), f'--blind-size={text}'])
    message = (
        'error: --blind-size: expected 0, an odd number up to 127, or two of them, height x width, such as 5x9, got'
    )
    assert stop.value.code == 2 and message in ' '.join(capsys.readouterr().err.split())


def test_denoise_command_applies_the_blind_size_and_notes_the_teacher(weights, tmp_path, capsys):
    image = scene(40, 52)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    arguments = ['denoise', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'b.png'), '--weights', str(weights)]
    main([*arguments, '--device', 'cpu', '--precision', 'fp32', '--blind-size', '5x9'])
    expected = denoised(weights, image, blind_size=(5, 9))
    assert np.array_equal(cv2.imread(str(tmp_path / 'b.png'))[..., ::-1], expected)
    assert 'holds a teacher (BNN)' in capsys.readouterr().err


def test_denoise_command_blind_size_for_a_student_names_the_option(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), scene(32, 32))
    path = write(tmp_path / 'net_g.pth', {'type': 'DenoisingUNet', 'dim': 4})
    with pytest.raises(SystemExit):
        main(
            ['denoise', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--weights', str(path), '--blind-size=3']
        )
    assert 'error: blind_size: expected a network whose' in capsys.readouterr().err
