"""BlindSizesModel: choice of the sizes, inference of the BNN, option values."""

from __future__ import annotations

import copy

import pytest
import torch

from basicsr_sassid import Denoiser
from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.models.blind_sizes_model import BlindSizesModel
from basicsr_sassid.models.three_stage_model import ThreeStageModel
from basicsr_sassid.training.datasets import open_dataset
from basicsr_sassid.training.loop import test as run_test
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import (
    ANYTHING,
    blind_sizes_options,
    error_of,
    log_of,
    tiny_options,
    trained,
    with_validation,
    with_value,
    without_dry_run,
)
from noise_scenes import white_noise

# ---- the choice of sizes ----


def copy_small_sizes(monkeypatch) -> None:
    """The BNN copies its input with 0, 1 and 3."""
    predictions = BlindSizesModel._predictions

    def copying(self, noisy, sizes):
        result = predictions(self, noisy, sizes)
        for number, size in enumerate(sizes):
            if size in (0, 1, 3):
                result[:, number] = noisy
        return result

    monkeypatch.setattr(BlindSizesModel, '_predictions', copying)


def test_blind_sizes_model_drops_the_sizes_with_which_the_bnn_copies(noisy_folder, tmp_path, monkeypatch):
    copy_small_sizes(monkeypatch)
    model = trained(blind_sizes_options(noisy_folder), tmp_path)
    assert model.choice.sizes == [5, 7, 9] and list(model.choice.dropped) == [0, 1, 3]
    assert model.choice.weights.table.shape[1] == 3
    assert 'dropped, since the prediction keeps too much of the noise: 0 (1' in log_of(tmp_path)


def test_blind_sizes_model_of_a_bnn_that_copies_keeps_its_largest_size(noisy_folder, tmp_path, monkeypatch):
    copy_small_sizes(monkeypatch)
    opt = blind_sizes_options(noisy_folder)
    opt['network_bnn']['blind_size'] = 3
    assert trained(opt, tmp_path).choice.sizes == [3]


def test_blind_sizes_model_bnn_whose_weights_copy_the_pixel_loses_size_0_alone(noisy_folder, tmp_path, monkeypatch):
    """The trunk's last input is the image itself, so that weights exist that pass the pixel on; with 1 they pass on its
    neighbour, whose noise is another."""
    monkeypatch.setattr('basicsr_sassid.models.three_stage_model.estimate_noise', lambda _: white_noise(20))
    opt = resolve_options(blind_sizes_options(noisy_folder, precision='fp32'), tmp_path, True)
    model = BlindSizesModel(opt)
    state = {name: torch.zeros_like(value) for name, value in model.bnn.state_dict().items()}
    first = state['trunk.decode.4.0.weight'].shape[1] - 3
    for channel in range(3):
        state['trunk.decode.4.0.weight'][channel, first + channel, -1, 1] = 1
        state['trunk.decode.4.2.weight'][channel, channel, -1, 1] = 1
        state['fuse.0.weight'][channel, channel] = state['fuse.2.weight'][channel, channel] = 1
        state['head.weight'][channel, channel] = 1
    model.bnn.load_state_dict(state)
    image = torch.rand(1, 3, 32, 32) * 255
    torch.testing.assert_close(model.bnn(image, 0), image)
    model.prepare_stage(5, open_dataset(opt['datasets']['train'], 'datasets.train'))
    assert list(model.choice.dropped) == [0] and model.choice.dropped[0] == pytest.approx(1, abs=0.05)


def test_blind_sizes_model_listed_sizes_are_kept_with_a_warning(noisy_folder, tmp_path, monkeypatch):
    copy_small_sizes(monkeypatch)
    model = trained(blind_sizes_options(noisy_folder, teacher_blind_sizes=[1, 3, 5, 7, 9]), tmp_path)
    assert model.choice.sizes == [1, 3, 5, 7, 9] and not model.choice.dropped
    assert model.choice.noise_kept[0] > 0.9 and model.choice.weights.table.shape[1] == 5
    log = log_of(tmp_path)
    for size in (1, 3):
        assert f'train.teacher_blind_sizes: with {size} the BNN copies its input, it keeps 1' in log
    assert 'with 5 the BNN' not in log


def test_blind_sizes_model_noise_is_measured_before_the_first_stage(noisy_folder, tmp_path, monkeypatch):
    def fail(_):
        raise UserError('every patch is clipped')

    monkeypatch.setattr('basicsr_sassid.models.three_stage_model.estimate_noise', fail)
    with pytest.raises(UserError, match='every patch is clipped'):
        trained(blind_sizes_options(noisy_folder), tmp_path)
    assert not list((tmp_path / 'experiments/tiny/models').glob('*.pth'))


# ---- inference ----


def test_blind_sizes_model_inference_is_that_of_validation_and_of_the_bnns_file(noisy_folder, tmp_path, monkeypatch):
    without_dry_run(monkeypatch)
    opt = with_validation(blind_sizes_options(noisy_folder), noisy_folder, freq=4)
    opt['inference'] = {'blind_size': 3}
    asked = []
    forward = BNN.forward

    def watch(self, x, blind_size=None):
        asked.append((self.training, blind_size))
        return forward(self, x, blind_size)

    monkeypatch.setattr(BNN, 'forward', watch)
    trained(opt, tmp_path)
    assert {blind_size for training, blind_size in asked if training} == {None}
    assert {blind_size for training, blind_size in asked if not training} == {3}
    weights = tmp_path / 'experiments/tiny/models/net_bnn_latest.pth'
    assert torch.load(weights, weights_only=True)['inference']['blind_size'] == 3
    assert Denoiser(weights, 'cpu').inference.blind_size == 3
    assert 'inference' not in torch.load(weights.with_name('net_g_latest.pth'), weights_only=True)


def test_blind_sizes_model_without_inference_writes_none(noisy_folder, tmp_path):
    trained(blind_sizes_options(noisy_folder), tmp_path)
    weights = tmp_path / 'experiments/tiny/models/net_bnn_latest.pth'
    assert 'inference' not in torch.load(weights, weights_only=True)
    assert Denoiser(weights, 'cpu').inference.blind_size is None


def test_blind_sizes_model_given_bnn_keeps_the_inference_of_its_file(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder)
    trained({**copy.deepcopy(opt), 'inference': {'blind_size': 3}}, tmp_path / 'first')
    weights = tmp_path / 'first/experiments/tiny/models/net_bnn_latest.pth'
    opt['path']['pretrain_network_bnn'] = str(weights)
    opt['train']['stages']['bnn']['iter'] = 0
    assert trained(copy.deepcopy(opt), tmp_path / 'second').inference.blind_size == 3
    opt['inference'] = {'blind_size': 5}
    assert trained(opt, tmp_path / 'third').inference.blind_size == 5


@pytest.mark.parametrize(('network', 'inference', 'blind_size'), [('bnn', None, 3), ('bnn', {'blind_size': 1}, 1)])
def test_blind_sizes_model_test_of_a_bnn_predicts_with_the_inference(
    noisy_folder, tmp_path, network, inference, blind_size
):
    opt = with_validation(blind_sizes_options(noisy_folder), noisy_folder)
    trained({**copy.deepcopy(opt), 'inference': {'blind_size': 3}}, tmp_path)
    weights = tmp_path / f'experiments/tiny/models/net_{network}_latest.pth'
    opt['network_g'] = opt.pop('network_bnn')
    opt['path'] = {'pretrain_network_g': str(weights)}
    opt['datasets'] = {'test': opt['datasets']['val']}
    opt['inference'] = inference
    del opt['train'], opt['logger']
    model = run_test(resolve_options(opt, tmp_path, False))
    image = torch.rand(1, 3, 40, 50)
    model.feed_data({'lq': image})
    model.test()
    torch.testing.assert_close(model.output * 255, model.nets['g'](image * 255, blind_size))


# ---- options ----


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'network_bnn': {'type': 'DBSNl', 'dim': 8, 'num_module': 2}},
            '^network_bnn.type: BlindSizesModel needs .*DBSNl',
        ),
        ({'inference': {'blind_sise': 3}}, "^inference: unknown key 'blind_sise'. Did you mean 'blind_size'"),
        ({'inference': {'blind_size': 4}}, '^inference.blind_size: expected 0, an odd number'),
        (
            {'train': {'teacher_blind_sizes': [1, 63]}},
            'less than twice datasets.train.patch_size 32, got 63: the whole',
        ),
        ({'train': {'teacher_blind_sizes': [1, 3, 2]}}, '^train.teacher_blind_sizes: expected 0, an odd number'),
        ({'train': {'teacher_draw': 'one'}}, '^train: teacher_draw: one needs teacher_weights: equal, got risk'),
        (
            {'train': {'teacher_weigths': 'risk'}},
            "^train: unknown key 'teacher_weigths'. Did you mean 'teacher_weights'",
        ),
        (
            {'loss': {'type': 'L1Loss'}},
            '^train.stages.unet.loss.type: expected a loss of several targets .* got L1Loss',
        ),
        ({'loss': {'loss_weight': -1}}, '^train.stages.unet.loss.loss_weight: expected a number > 0'),
    ],
    ids=str,
)
def test_blind_sizes_model_unusable_option_is_refused(noisy_folder, tmp_path, changes, message):
    opt = blind_sizes_options(noisy_folder)
    opt['train'].update(changes.pop('train', {}))
    opt['train']['stages']['unet'].update({key: changes.pop(key) for key in ('loss',) if key in changes})
    with pytest.raises(UserError, match=message):
        resolve_options({**opt, **changes}, tmp_path, True)


def test_blind_sizes_model_risk_weights_of_tiny_patches_are_refused(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder)
    opt['network_bnn']['blind_size'], opt['datasets']['train']['patch_size'] = 1, 3
    with pytest.raises(UserError, match=r'risk needs a datasets.train.patch_size above 3, got 3'):
        resolve_options(opt, tmp_path, True)


@pytest.mark.parametrize('keys', [{}, {'teacher_blind_sizes': [1, 9]}, {'teacher_weights': 'equal'}], ids=str)
def test_blind_sizes_model_measuring_needs_whole_images(noisy_folder, tmp_path, keys):
    opt = blind_sizes_options(noisy_folder, **keys)
    opt['datasets']['train'].update(
        type='PairedImageDataset', dataroot_gt=str(noisy_folder), gt_size=32, use_hflip=True, use_rot=True
    )
    del opt['datasets']['train']['patch_size']
    with pytest.raises(UserError, match=r'need NoisyImageDataset, not PairedImageDataset. List the sizes'):
        trained(opt, tmp_path)
    opt['train'].update(teacher_blind_sizes=[1, 9], teacher_weights='texture')
    assert trained(opt, tmp_path).choice.sizes == [1, 9]


def test_three_stage_model_refuses_inference(noisy_folder, tmp_path):
    with pytest.raises(UserError, match='^inference: ThreeStageModel has no such block'):
        resolve_options({**tiny_options(noisy_folder), 'inference': {'blind_size': 3}}, tmp_path, True)


BLIND_SIZES_KEYS = ('teacher_blind_sizes', 'teacher_weights', 'teacher_draw', 'recharge')


@pytest.mark.parametrize('key', BLIND_SIZES_KEYS)
def test_blind_sizes_option_outside_of_its_range_is_one_sentence(noisy_folder, tmp_path, key):
    opt = blind_sizes_options(noisy_folder)
    for value in (
        *ANYTHING,
        False,
        'all of them',
        [],
        [2],
        [0, 0],
        [129],
        [[3, 5, 7]],
        [[0, 3]],
        [9, 1],
        [None],
        [True],
    ):
        message = error_of(with_value(opt, f'train.{key}', value), tmp_path)
        if key == 'recharge' and isinstance(value, bool):
            assert message is None
        else:
            assert message is not None and message.startswith(f'train.{key}: ') and '\n' not in message, value


def test_every_key_of_the_blind_sizes_schema_is_tried():
    assert set(BlindSizesModel.train_schema.model_fields) - set(ThreeStageModel.train_schema.model_fields) == set(
        BLIND_SIZES_KEYS
    )
