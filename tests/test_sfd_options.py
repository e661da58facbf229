"""Options of SFDModel: each wrong value gives one sentence that names the option, before anything is written."""

from __future__ import annotations

import pytest
from basicsr.models import build_model

from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.sfd_checks import build_semantic_pair
from basicsr_sassid.training.sfd_schema import SFDOptions
from basicsr_sassid.utils.errors import UserError

from helpers import error_of, trained, with_value
from sfd_scenes import BACKBONE, PARTS

NUMBERS = ('feature_weight', 'text_weight', 'feature_interval', 'text_interval')
NAMES = ('backbone', 'layer', 'final_layer', 'weights', 'input_norm')
SIZES = r'network_prompt: .*expected num_features >= 1, num_context >= 0 and width >= 1, whole numbers, got '
SCALE = r'network_prompt: logit_scale: expected a number above 0, up to 100, got '


@pytest.fixture
def opt(sfd_options) -> dict:
    return sfd_options


def refused(opt: dict, folder, message: str) -> None:
    """The model is not built."""
    with pytest.raises(UserError, match=message):
        build_model(resolve_options(opt, folder, True))


# ---- block train.sfd_opt ----


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        *(
            (name, value, rf'{name}: expected a .*number, got {value!r}')
            for name in NUMBERS
            for value in ('x', None, True)
        ),
        *((name, 10**7, rf'{name}: expected a number <= 1e\+06, got 10000000') for name in NUMBERS),
        *((name, -1, rf'{name}: expected a number >= \d, got -1') for name in NUMBERS),
        *((name, 1.5, rf'{name}: expected a whole number, got 1.5') for name in NUMBERS[2:]),
        *((name, 0, rf'{name}: expected a number >= 1, got 0') for name in NUMBERS[2:]),
        *(
            (f'features.{name}', value, rf'features.{name}: expected a text, got {value}')
            for name in NAMES
            for value in (1, None)
        ),
        ('gan_type', 1, r'gan_type: expected one of vanilla, lsgan, wgan, wgan_softplus, hinge, got 1'),
        ('feature_wight', 1, r"sfd_opt: unknown key 'feature_wight'. Did you mean 'feature_weight'"),
        ('features.layr', 'x', r"sfd_opt.features: unknown key 'layr'. Did you mean 'layer'"),
        ('features', 'x', r"sfd_opt.features: expected a block of keys, got 'x'"),
        ('features', None, r'sfd_opt.features: expected a block of keys, got None'),
    ],
)
def test_sfd_options_bad_value_raises_user_error(key, value, message):
    with pytest.raises(UserError, match=rf'train\.(sfd_opt\.)?{message}'):
        SFDOptions.parse(with_value({}, key, value), 'train.sfd_opt')


@pytest.mark.parametrize('value', ['x', [1]])
def test_sfd_options_that_are_no_block_raise_user_error(opt, tmp_path, value):
    refused(with_value(opt, 'train.sfd_opt', value), tmp_path, r'train\.sfd_opt: expected a block of keys, got ')


# ---- networks, optimisers, losses: the model is not built ----


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('train.sfd_opt.features.backbone', 'x', r"^train.sfd_opt.features.backbone: 'x' is no classifier"),
        ('train.sfd_opt.features.layer', 'x', r"^train.sfd_opt.features.layer: squeezenet1_1 has no layer 'x'"),
        ('train.sfd_opt.features.final_layer', 'x', r"^train.sfd_opt.features.final_layer: squeeze.* no layer 'x'"),
        ('train.sfd_opt.features.weights', 'x', r'^train.sfd_opt.features.weights: no such file or folder: x'),
        ('train.sfd_opt.features.input_norm', 'x', r"^train.sfd_opt.features.input_norm: expected .* got 'x'"),
        ('network_feature_d', 'x', r"^network_feature_d: expected a block of keys, got 'x'"),
        ('network_feature_d', {'num_in_ch': 128}, r'^network_feature_d: expected a block with a type'),
        ('network_feature_d.type', 'x', r"^network_feature_d.type: nothing is registered as 'x'"),
        ('network_feature_d.widht', 1, r"^network_feature_d: unknown key 'widht'"),
        *(
            (f'network_feature_d.{key}', value, rf'^network_feature_d: {key}: expected a number >= 1, got {value!r}')
            for key in ('num_in_ch', 'num_feat')
            for value in (0, -1, 1.5, 'x', None, True)
        ),
        ('network_feature_d.variant', 'x', r"^network_feature_d: variant: expected one of .* got 'x'"),
        ('network_prompt', None, r'^network_prompt: expected a block of keys, got None'),
        ('network_prompt', {'type': 'LearnablePromptPair'}, r'^network_prompt: .*num_features'),
        (
            'network_prompt',
            {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3},
            r'^network_prompt.type: expected Learn.*EDSR',
        ),
        *(
            (f'network_prompt.{key}', value, SIZES)
            for key in ('num_features', 'width')
            for value in (0, 1.5, 'x', True)
        ),
        *(('network_prompt.num_context', value, SIZES) for value in (-1, 1.5, 'x', None, True)),
        *(('network_prompt.logit_scale', value, SCALE) for value in (0, -1, 101, 'x', None, True)),
        ('network_prompt.num_context', 4, r'^network_prompt.num_context: squeezenet1_1 has no text tower, expected 0'),
        ('network_d', None, r'^network_d: expected a block of keys, got None'),
        ('train.scheduler_promt', {}, r"^train: unknown key 'scheduler_promt'. Did you mean 'scheduler_prompt'"),
        ('train.ldl_opt', {'type': 'L1Loss'}, r"^train: unknown key 'ldl_opt'"),
        ('train.degradation_opt', {}, r"^train: unknown key 'degradation_opt'"),
        ('network_d.widht', 1, r"^network_d: unknown key 'widht'"),
        ('datasets.train.gt_size', 60, r'^datasets.train.gt_size: UNet.* of network_d needs a multiple of 8, got 60'),
        *((f'train.optim_{name}', {'lr': 1}, rf'^train.optim_{name}.type: expected one of') for name in PARTS),
        *((f'train.optim_{name}.lrr', 1, rf"^train.optim_{name}: unknown key 'lrr'. Did you") for name in PARTS),
        *((f'train.scheduler_{name}', 'x', rf"^train.scheduler_{name}: expected a block .* got 'x'") for name in PARTS),
        *(
            (f'train.{name}', 'x', rf"^train.{name}: expected a block with a type, got 'x'")
            for name in ('pixel_opt', 'gan_opt')
        ),
        ('train.pixel_opt.type', 'x', r"^train.pixel_opt.type: nothing is registered as 'x'"),
        ('train.gan_opt.weight', 1, r"^train.gan_opt: unknown key 'weight'"),
        ('train.perceptual_opt', {'type': 'L1'}, r"^train.perceptual_opt.type: nothing is registered as 'L1'"),
        ('train.ema_decay', 1.5, r'^train.ema_decay: expected a number >= 0 and < 1, got 1.5'),
        ('train.net_d_iters', 0, r'^train.net_d_iters: expected a number >= 1, got 0'),
        ('train.net_d_init_iters', 'x', r"^train.net_d_init_iters: expected a number >= 0, got 'x'"),
    ],
)
def test_sfd_model_bad_option_is_not_built(opt, tmp_path, key, value, message):
    refused(with_value(opt, key, value), tmp_path, message)


@pytest.mark.parametrize(
    ('part', 'key'), [('d', 'gan_opt'), ('feature_d', 'feature_weight'), ('prompt', 'text_weight')]
)
@pytest.mark.parametrize('block', ['network_', 'train.optim_'])
def test_sfd_model_part_without_a_block_raises_user_error(opt, tmp_path, part, key, block):
    *parents, last = f'{block}{part}'.split('.')
    (opt[parents[0]] if parents else opt).pop(last)
    refused(opt, tmp_path, rf'^{block}{part}: train\..*{key} needs this block. Add it, or switch')


@pytest.mark.parametrize(
    ('features', 'prompt', 'message'),
    [
        ({}, {'width': 16}, r'^network_prompt.width: expected 32, of the text tower of clip/.*, got 16'),
        ({}, {'num_context': 73}, r'^network_prompt.num_context: expected at most 72, .* got 73'),
    ],
)
def test_sfd_model_on_clip_prompts_that_do_not_fit_are_not_built(
    opt, tmp_path, clip_weights, features, prompt, message
):
    refused(on_clip(opt, clip_weights, features, prompt), tmp_path, message)


def test_sfd_model_on_clip_as_many_context_vectors_as_a_text_has_room_for_train(opt, tmp_path, clip_weights):
    assert error_of(on_clip(opt, clip_weights, {}, {'num_context': 72}), tmp_path) is None


def on_clip(opt: dict, weights: str, features: dict, prompt: dict) -> dict:
    from clip_models import NAME

    pair = {'type': 'LearnablePromptPair', 'num_features': 24, 'num_context': 4, 'width': 32, 'logit_scale': 10}
    opt['network_prompt'] = {**pair, **prompt}
    opt['train']['sfd_opt']['features'] = {'backbone': f'clip/{NAME}', 'weights': weights, **features}
    return opt


# ---- sizes that the first iteration finds ----


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('network_feature_d.num_in_ch', 64, r'^network_feature_d.num_in_ch: expected 128, .*features.5, got 64'),
        ('network_prompt.num_features', 512, r'^network_prompt.num_features: expected 4608, .*features.12 .*, got 512'),
        ('datasets.train.gt_size', 48, r'^network_prompt.num_features: expected 2048, .*features.12 .*, got 4608'),
        (
            'train.sfd_opt.features.final_layer',
            'features.3',
            r'final_layer lies before layer, features.3 before features.5',
        ),
        ('network_d.num_in_ch', 5, r'^train: SFDModel fails on a patch of 32x32 pixels: .*to have 5 channels'),
    ],
)
def test_sfd_model_network_that_does_not_fit_the_features_is_refused_in_the_dry_run(opt, tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        trained(with_value(opt, key, value), tmp_path)
    assert not (tmp_path / 'experiments').exists()


def test_sfd_model_layer_without_a_map_raises_user_error(opt, tmp_path):
    features = {'backbone': 'resnet18', 'layer': 'fc', 'final_layer': 'logits', 'weights': 'random'}
    opt['train']['sfd_opt']['features'] = features
    message = r'^train.sfd_opt.features.layer: expected a layer with a feature map .*, fc gives \(1, 1000\)'
    with pytest.raises(UserError, match=message):
        trained(opt, tmp_path)


def test_sfd_model_on_clip_final_layer_of_another_length_than_texts_raises_user_error(opt, tmp_path, clip_weights):
    message = r'^train.sfd_opt.features.final_layer: expected 24 numbers, as the text features have, layer4 gives \d+'
    with pytest.raises(UserError, match=message):
        trained(on_clip(opt, clip_weights, {'final_layer': 'layer4'}, {}), tmp_path)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('network_feature_d', None, r'network_feature_d'),
        ('train.optim_prompt', None, r'train.optim_prompt: train.sfd_opt.text_weight needs this block'),
        ('train.optim_d', None, r'train.optim_d: train.gan_opt needs this block'),
        ('train.sfd_opt.feature_wight', 1, r"train.sfd_opt: unknown key 'feature_wight'. Did you mean"),
        ('train.sfd_opt.feature_weight', -1, r'train.sfd_opt.feature_weight: expected a number >= 0, got -1'),
        ('train.sfd_opt.text_interval', 0, r'train.sfd_opt.text_interval: expected a number >= 1, got 0'),
        ('train.sfd_opt.gan_type', 'x', r"train.sfd_opt.gan_type: expected one of vanilla.* got 'x'"),
        ('train.sfd_opt.features.layer', 'x', r"squeezenet1_1 has no layer 'x'"),
        ('network_prompt.num_context', 4, r'network_prompt.num_context: squeezenet1_1 has no text tower, expected 0'),
        ('train.scheduler.type', 'x', r"train.scheduler.type: expected one of .* got 'x'"),
        ('train.optim_g.type', 'x', r"train.optim_g.type: expected one of .* got 'x'"),
    ],
)
def test_sfd_model_bad_option_raises_user_error_before_anything_is_written(opt, tmp_path, key, value, message):
    with pytest.raises(UserError, match=message):
        trained(with_value(opt, key, value), tmp_path)
    assert not (tmp_path / 'experiments').exists()


def test_sfd_model_without_any_loss_raises_user_error(opt, tmp_path):
    for key in ('pixel_opt', 'gan_opt'):
        del opt['train'][key]
    opt['train']['sfd_opt'].update(feature_weight=0, text_weight=0)
    with pytest.raises(UserError, match='train: every loss is off'):
        build_model(resolve_options(opt, tmp_path, True))


def test_sfd_model_random_features_in_several_processes_raise_user_error():
    options = SFDOptions.parse({'features': {**BACKBONE, 'weights': 'random'}}, 'train.sfd_opt')
    build_semantic_pair(options, dist=False)
    with pytest.raises(UserError, match='^train.sfd_opt.features.weights: random ones would differ'):
        build_semantic_pair(options, dist=True)
