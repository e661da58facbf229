"""SFDModel: gradients of each step, switches, files, resume, several processes."""

from __future__ import annotations

import copy

import pytest
import torch

from helpers import assert_same, latest_params, train_in_two_processes, trained, write_yml
from sfd_scenes import PARTS, built


@pytest.fixture
def opt(sfd_options) -> dict:
    return sfd_options


def gradients(net) -> float:
    return sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None)


# ---- steps ----


def test_sfd_model_logs_every_term(opt, tmp_path):
    model = built(opt, tmp_path)
    model.optimize_parameters(1)
    generator, image = 'l_g_pix l_g_gan l_g_feature l_g_text', 'l_d_real out_d_real l_d_fake out_d_fake'
    semantic = 'l_feature_d out_feature_d_real out_feature_d_fake l_prompt'
    assert list(model.get_current_log()) == f'{generator} {image} {semantic}'.split()


def test_sfd_model_generator_step_leaves_no_gradient_on_the_others(opt, tmp_path):
    model = built(opt, tmp_path)
    model.output = model.net_g(model.lq)
    model._generator_step({})
    assert gradients(model.net_g) > 0
    for name in PARTS[1:]:
        assert gradients(getattr(model, f'net_{name}')) == 0
    assert gradients(model.features) == 0


def test_sfd_model_other_steps_leave_the_generator_alone(opt, tmp_path):
    model = built(opt, tmp_path)
    model.output = model.net_g(model.lq)
    with torch.no_grad():
        pairs = model.features(torch.cat([model.gt, model.output]))
    model._image_step(model.net_d, {})
    model._feature_step(model.net_feature_d, pairs, {})
    model._prompt_step(model.net_prompt, pairs, {})
    assert gradients(model.net_g) == 0 and gradients(model.features) == 0
    for name in PARTS[1:]:
        assert gradients(getattr(model, f'net_{name}')) > 0


@pytest.mark.parametrize('term', ['feature', 'text'])
def test_sfd_model_semantic_terms_reach_the_generator(opt, tmp_path, term):
    for key in ('pixel_opt', 'gan_opt', 'optim_d'):
        del opt['train'][key]
    opt['train']['sfd_opt']['text_weight' if term == 'feature' else 'feature_weight'] = 0
    model = built(opt, tmp_path)
    model.optimize_parameters(1)
    assert gradients(model.net_g) > 0
    assert [name for name in model.get_current_log() if name.startswith('l_g')] == [f'l_g_{term}']


def test_sfd_model_step_weights_are_factors(opt, tmp_path):
    logs = []
    for weight in (0.01, 0.03):
        opt['train']['sfd_opt'].update(feature_weight=weight, text_weight=weight)
        model = built(copy.deepcopy(opt), tmp_path)
        model.optimize_parameters(1)
        logs.append(model.get_current_log())
    for name in ('l_g_feature', 'l_g_text'):
        assert logs[1][name] == pytest.approx(3 * logs[0][name], rel=1e-4)


def test_sfd_model_intervals_are_those_of_the_options(opt, tmp_path):
    opt['train']['sfd_opt'].update(feature_interval=2, text_interval=3)
    model = built(opt, tmp_path)
    steps = {'l_feature_d': [], 'l_prompt': []}
    for iteration in range(1, 7):
        model.optimize_parameters(iteration)
        for name, found in steps.items():
            if name in model.get_current_log():
                found.append(iteration)
    assert steps == {'l_feature_d': [2, 4, 6], 'l_prompt': [3, 6]}


def test_sfd_model_generator_waits_for_its_iterations(opt, tmp_path):
    opt['train'].update(net_d_iters=2, net_d_init_iters=3)
    opt['train']['sfd_opt'].update(feature_interval=2, text_interval=3)
    del opt['train']['gan_opt'], opt['train']['optim_d'], opt['network_d']
    model = built(opt, tmp_path)
    assert model.complete_iteration == 6
    steps = []
    for iteration in range(1, 7):
        before = copy.deepcopy(model.net_g.state_dict())
        model.optimize_parameters(iteration)
        if any(not torch.equal(value, before[name]) for name, value in model.net_g.state_dict().items()):
            steps.append(iteration)
        assert bool(model.get_current_log()) == (iteration not in (1, 5))  # in these no part is due
    assert steps == [4, 6]


def test_sfd_model_without_prompts_stops_at_the_layer_of_feat_d(opt, tmp_path):
    whole = built(copy.deepcopy(opt), tmp_path)
    opt['train']['sfd_opt']['text_weight'] = 0
    model = built(opt, tmp_path)
    calls = []
    model.features.features.backbone.get_submodule('features.6').register_forward_hook(lambda *_: calls.append(1))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.features(x)[0], whole.features(x)[0]) and not calls


def test_sfd_model_schedules_of_parts_differ(opt, tmp_path):
    opt['train']['scheduler_prompt'] = {'type': 'MultiStepLR', 'milestones': [2], 'gamma': 0.1}
    model = built(opt, tmp_path)
    for iteration in range(1, 5):
        model.update_learning_rate(iteration)
        model.optimize_parameters(iteration)
    rates = {name: model.optimizer_of[name].param_groups[0]['lr'] for name in PARTS}
    assert rates == pytest.approx({'g': 1e-3, 'd': 1e-3, 'feature_d': 1e-3, 'prompt': 1e-4})


def test_sfd_model_discriminators_learn_to_tell_the_images_apart(opt, tmp_path):
    opt['train'].update(
        {
            f'optim_{name}': {'type': 'Adam', 'lr': lr}
            for name, lr in (('g', 1e-6), ('feature_d', 1e-2), ('prompt', 1e-2))
        }
    )
    opt['network_feature_d']['variant'] = 'pixel'
    model = built(opt, tmp_path)
    logs = []
    for iteration in range(1, 61):
        model.optimize_parameters(iteration)
        logs.append(model.get_current_log())
    for name in ('l_feature_d', 'l_prompt'):
        assert logs[-1][name] < 0.9 * logs[0][name]


@pytest.mark.parametrize(
    'off',
    [['pixel_opt'], ['gan_opt', 'optim_d'], ['feature_weight'], ['text_weight'], ['feature_weight', 'text_weight']],
)
def test_sfd_model_part_that_is_off_needs_no_network(opt, tmp_path, off):
    for key in off:
        if key.endswith('weight'):
            opt['train']['sfd_opt'][key] = 0
            opt.pop('network_feature_d' if key == 'feature_weight' else 'network_prompt')
        else:
            del opt['train'][key]
    if 'gan_opt' in off:
        del opt['network_d']
    trained(opt, tmp_path)
    files = {path.name for path in (tmp_path / 'experiments/tiny/models').glob('*latest*')}
    assert 'net_g_latest.pth' in files
    assert ('sfd_latest.pth' in files) == (len(off) < 2 or 'gan_opt' in off)


def test_sfd_model_on_clip_trains(opt, tmp_path, clip_weights):
    from clip_models import NAME

    opt['train']['sfd_opt']['features'] = {'backbone': f'clip/{NAME}', 'weights': clip_weights}
    opt['network_feature_d']['num_in_ch'] = 128
    prompt = {'type': 'LearnablePromptPair', 'num_features': 24, 'num_context': 4, 'width': 32}
    opt['network_prompt'] = {**prompt, 'logit_scale': 10}
    model = trained(opt, tmp_path)
    keys = set(latest_params(tmp_path, 'tiny', 'prompt'))
    assert keys == {'prompts'} and model.features.text is not None


@pytest.mark.filterwarnings('ignore:torch.meshgrid')  # BasicSR's SwinIR
@pytest.mark.parametrize('network', ['RRDBNet', 'SwinIR'])
def test_sfd_model_takes_any_generator(opt, tmp_path, network):
    small = {'type': 'SwinIR', 'upscale': 2, 'window_size': 8, 'depths': [2], 'embed_dim': 12, 'num_heads': [2]}
    opt['network_g'] = {
        'RRDBNet': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 2, 'num_feat': 4, 'num_block': 1},
        'SwinIR': {**small, 'upsampler': 'pixelshuffledirect'},
    }[network]
    model = built(opt, tmp_path)
    model.optimize_parameters(1)
    assert gradients(model.net_g) > 0


# ---- files ----


def test_sfd_model_saves_no_semantic_network(opt, tmp_path):
    model = trained(opt, tmp_path)
    for name in PARTS:
        assert latest_params(tmp_path, 'tiny', name).keys() == getattr(model, f'net_{name}').state_dict().keys()
    optimised = sum(len(group['params']) for o in model.optimizers for group in o.param_groups)
    assert optimised == sum(len(list(getattr(model, f'net_{name}').parameters())) for name in PARTS)


def test_sfd_model_resumed_equals_the_uninterrupted_run(opt, tmp_path):
    opt['train']['ema_decay'] = 0.9
    trained(opt, tmp_path)
    whole = {name: latest_params(tmp_path, 'tiny', name) for name in PARTS}
    states = tmp_path / 'experiments/tiny/training_states'
    for path in (states / '8.state', *(tmp_path / 'experiments/tiny/models').glob('*_8.pth')):
        path.unlink()
    trained(opt, tmp_path, auto_resume=True)
    for name, params in whole.items():
        assert_same(params, latest_params(tmp_path, 'tiny', name))


@pytest.mark.multiprocess
def test_sfd_model_in_two_processes_trains_and_resumes(opt, tmp_path):
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    train_in_two_processes(yml, tmp_path)
    whole = {name: latest_params(tmp_path, 'tiny', name) for name in PARTS}
    (tmp_path / 'experiments/tiny/training_states/8.state').unlink()
    train_in_two_processes(yml, tmp_path, '--auto_resume')
    for name, params in whole.items():
        assert_same(params, latest_params(tmp_path, 'tiny', name))
