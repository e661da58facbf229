"""BlindSizesModel and ATBSNModel: training, draws, resuming, several processes."""

from __future__ import annotations

import copy
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr_sassid.losses.weighted_targets_loss import WeightedTargetsL1Loss
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

from helpers import (
    assert_same,
    blind_sizes_options,
    caches_of,
    latest_params,
    log_of,
    train_in_two_processes,
    trained,
    without_dry_run,
    write_yml,
)

# train.teacher_weights and the other keys that change the loss
VARIANTS = {
    'risk': {},
    'texture': {'teacher_weights': 'texture'},
    'equal': {'teacher_weights': 'equal', 'teacher_draw': 'all'},
    'one': {'teacher_weights': 'equal', 'teacher_draw': 'one'},
    'recharge': {'recharge': True},
    'one, recharge': {'teacher_weights': 'equal', 'teacher_draw': 'one', 'recharge': True},
    'posterior': {'posterior': True},
}


def student_of(folder: Path) -> dict[str, torch.Tensor]:
    return latest_params(folder, 'tiny', 'g')


# ---- training ----


@pytest.mark.parametrize('variant', VARIANTS)
def test_blind_sizes_model_with_any_weights_and_a_cache_in_memory_trains(noisy_folder, tmp_path, variant):
    model = trained(blind_sizes_options(noisy_folder, teacher_cache='memory', **VARIANTS[variant]), tmp_path)
    assert model.stage.name == 'unet' and torch.isfinite(model.loss)
    assert 'bnn' in model.cached_targets and not caches_of(tmp_path)
    assert (model.choice.weights is not None) == ('teacher_weights' not in VARIANTS[variant])
    assert model.choice.describe() in log_of(tmp_path)


def test_atbsn_model_teaches_with_the_papers_sizes_alike(noisy_folder, tmp_path):
    model = trained(blind_sizes_options(noisy_folder, 'ATBSNModel'), tmp_path)
    assert model.choice.sizes == [0, 1, 3, 5, 7, 9, 11] and model.choice.weights is None and model.noise is None


def test_blind_sizes_model_stage_unet_lowers_the_loss(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, teacher_cache='memory')
    opt['train']['stages']['unet']['iter'] = 60
    losses = []
    train(
        resolve_options(opt, tmp_path, True),
        on_iteration=lambda model, _: losses.append(model.loss.item()) if model.stage.name == 'unet' else None,
    )
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def loss_calls(monkeypatch, opt: dict, folder: Path) -> list[tuple]:
    """(prediction, targets, weights) of each call of the loss."""
    without_dry_run(monkeypatch)
    calls = []
    forward = WeightedTargetsL1Loss.forward

    def watch(self, pred, targets, weights=None):
        calls.append((pred, targets, weights))
        return forward(self, pred, targets, weights)

    monkeypatch.setattr(WeightedTargetsL1Loss, 'forward', watch)
    trained(opt, folder)
    return calls


def test_blind_sizes_model_targets_are_predictions_with_each_size(noisy_folder, tmp_path, monkeypatch):
    inputs = []
    step = StagedModel.optimize_parameters

    def watch(self, i):
        step(self, i)
        if self.stage.name == 'unet':
            inputs.append((self.lq * 255, [self.bnn(self.lq * 255, size) for size in (1, 5, (7, 7))]))

    monkeypatch.setattr(StagedModel, 'optimize_parameters', watch)
    opt = blind_sizes_options(noisy_folder, teacher_blind_sizes=[1, 5, 7], teacher_weights='equal', teacher_draw='all')
    calls = loss_calls(monkeypatch, opt, tmp_path)
    assert len(calls) == len(inputs) == 4
    for (_, targets, weights), (_, expected) in zip(calls, inputs):
        torch.testing.assert_close(targets, torch.stack(expected, dim=1))
        assert weights is None


def test_blind_sizes_model_draw_one_gives_each_patch_the_prediction_of_a_drawn_size(
    noisy_folder, tmp_path, monkeypatch
):
    drawn = []
    step = StagedModel.optimize_parameters

    def watch(self, i):
        step(self, i)
        if self.stage.name == 'unet':
            drawn.append(torch.stack([self.bnn(self.lq * 255, size) for size in (1, 5, 9)], dim=1))

    monkeypatch.setattr(StagedModel, 'optimize_parameters', watch)
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, 5, 9], teacher_draw='one')
    opt['train']['stages']['unet']['iter'] = 12
    calls = loss_calls(monkeypatch, opt, tmp_path)
    numbers = []
    for (_, targets, weights), predictions in zip(calls, drawn):
        assert targets.shape == (2, 1, 3, 32, 32) and weights is None
        distances = (predictions - targets).abs().amax(dim=(2, 3, 4))
        assert (distances.amin(dim=1) < 1e-3).all()
        numbers += distances.argmin(dim=1).tolist()
    assert len(numbers) == 24 and set(numbers) == {0, 1, 2}


@pytest.mark.parametrize(
    ('draw', 'cache', 'count'),
    [('auto', 'off', 1), ('auto', 'memory', 3), ('one', 'memory', 1), ('one', 'off', 1), ('all', 'off', 3)],
)
def test_blind_sizes_model_draw_decides_the_number_of_targets(noisy_folder, tmp_path, monkeypatch, draw, cache, count):
    keys = {'teacher_blind_sizes': [1, 5, 9], 'teacher_weights': 'equal'}
    opt = blind_sizes_options(noisy_folder, teacher_draw=draw, teacher_cache=cache, **keys)
    assert {targets.shape[1] for _, targets, _ in loss_calls(monkeypatch, opt, tmp_path)} == {count}


def test_blind_sizes_model_recharge_replaces_one_target_of_each_pixel(noisy_folder, tmp_path, monkeypatch):
    noisy = []
    step = StagedModel.optimize_parameters
    monkeypatch.setattr(
        StagedModel, 'optimize_parameters', lambda self, i: (noisy.append(self.lq * 255), step(self, i))[1]
    )
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', recharge=True, teacher_blind_sizes=[1, 3, 5])
    for (_, targets, _), lq in zip(loss_calls(monkeypatch, opt, tmp_path), noisy[-4:]):
        assert ((targets == lq[:, None]).all(dim=2).sum(dim=1) == 1).all()


# ---- resuming ----


@pytest.mark.parametrize(
    ('variant', 'cache'),
    [*((variant, 'lmdb') for variant in VARIANTS), ('risk', 'off'), ('one', 'off'), ('one, recharge', 'off')],
)
def test_blind_sizes_model_resumed_equals_the_uninterrupted_run(noisy_folder, tmp_path, variant, cache):
    opt = blind_sizes_options(noisy_folder, teacher_cache=cache, ema_decay=0.9, **VARIANTS[variant])
    whole = trained(copy.deepcopy(opt), tmp_path)
    expected = student_of(tmp_path)
    states = tmp_path / 'experiments/tiny/training_states'
    (states / '8.state').unlink()  # in stage unet, at iteration 6
    resumed = trained(copy.deepcopy(opt), tmp_path, auto_resume=True)
    assert 'Resuming from iteration 6.' in log_of(tmp_path)
    assert_same(expected, student_of(tmp_path))
    assert resumed.choice.to_dict() == whole.choice.to_dict() and len(caches_of(tmp_path)) == (cache == 'lmdb')


def test_blind_sizes_model_resumed_at_the_end_of_the_bnns_stage_equals_the_uninterrupted_run(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, teacher_cache='lmdb', ema_decay=0.9)
    trained(copy.deepcopy(opt), tmp_path)
    expected = student_of(tmp_path)
    for name in ('8.state', '6.state'):
        (tmp_path / 'experiments/tiny/training_states' / name).unlink()
    (cache,) = caches_of(tmp_path)
    shutil.rmtree(cache)
    trained(copy.deepcopy(opt), tmp_path, auto_resume=True)
    assert caches_of(tmp_path) == [cache]
    assert_same(expected, student_of(tmp_path))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize('cache', ['off', 'lmdb', 'memory'])
def test_blind_sizes_model_in_two_processes_equals_one_with_both_batches(noisy_folder, tmp_path, cache):
    opt = blind_sizes_options(noisy_folder, teacher_cache=cache, ema_decay=0.9)
    opt['network_g']['residual'] = True  # a buffer
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
    train_in_two_processes(yml, tmp_path / 'two')
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    trained(opt, tmp_path / 'one')
    # to uint16's steps: the predictions are of other batches
    assert_same(student_of(tmp_path / 'one'), student_of(tmp_path / 'two'), rtol=1e-3, atol=1e-3)


def test_variants_of_blind_sizes_model_are_all_combinations_of_weights_and_draws():
    """VARIANTS leaves none out that the options take."""
    taken = {('risk', 'all'), ('texture', 'all'), ('equal', 'all'), ('equal', 'one')}
    found = {(keys.get('teacher_weights', 'risk'), keys.get('teacher_draw', 'all')) for keys in VARIANTS.values()}
    assert found == taken and taken < set(product(('risk', 'texture', 'equal'), ('all', 'one')))
