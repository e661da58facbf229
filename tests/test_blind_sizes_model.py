"""BlindSizesModel and ATBSNModel: training, teacher cache, resuming, the choice of sizes, options, files."""

from __future__ import annotations

import copy
import shutil
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr_sassid import Denoiser
from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.losses.weighted_targets_loss import WeightedTargetsL1Loss
from basicsr_sassid.models.blind_sizes_model import BlindSizesModel
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.training.budget import StepTimes, allocate_budget, measure_step_times
from basicsr_sassid.training.datasets import open_dataset
from basicsr_sassid.training.loop import test as run_test
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import (
    assert_same,
    blind_sizes_options,
    latest_params,
    run_module,
    tiny_options,
    trained,
    with_validation,
    without_dry_run,
    write_yml,
)
from noise_scenes import white_noise

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


def log_of(folder: Path) -> str:
    return '\n'.join(path.read_text() for path in sorted((folder / 'experiments/tiny').glob('train_*.log')))


def caches_of(folder: Path) -> list[Path]:
    return sorted((folder / 'experiments/tiny/teacher_cache').glob('*.lmdb'))


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
    run_module(
        'basicsr_sassid.train',
        '-opt',
        yml,
        '--launcher',
        'pytorch',
        cwd=tmp_path / 'two',
        launcher=('torch.distributed.run', '--nproc_per_node=2', '--standalone', '-m'),
    )
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    trained(opt, tmp_path / 'one')
    # to uint16's steps: the predictions are of other batches
    assert_same(student_of(tmp_path / 'one'), student_of(tmp_path / 'two'), rtol=1e-3, atol=1e-3)


# ---- teacher cache ----


@pytest.mark.parametrize('posterior', [False, True])
def test_blind_sizes_model_cached_targets_equal_those_on_the_fly(photographs, tmp_path, monkeypatch, posterior):
    """A patch as large as the image is one window, in the first symmetry."""
    opt = blind_sizes_options(photographs, teacher_cache='lmdb', posterior=posterior)
    opt['datasets']['train'].update(patch_size=64, use_hflip=False, use_rot=False)
    for path in photographs.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:, :64])
    differences = []
    step = StagedModel.optimize_parameters

    def compare(self, i):
        if self.stage.name == 'unet' and 'bnn' in self.cached_targets:
            lq = self.lq * 255
            live = self.postprocess_target('bnn', self.teacher_forward('bnn', lq), lq) / 255
            assert live.shape == (2, 3 * len(self.choice.sizes), 64, 64)
            differences.append((live.clamp(-0.25, 1.25) - self.cached_targets['bnn']).abs().max().item() * 255)
        return step(self, i)

    monkeypatch.setattr(StagedModel, 'optimize_parameters', compare)
    trained(opt, tmp_path)
    assert len(differences) == 4 and max(differences) < 0.01


def test_blind_sizes_model_cache_holds_six_bytes_a_pixel_and_size(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_cache='lmdb', teacher_blind_sizes=[1, 3, 5, 9])
    model = trained(opt, tmp_path)
    cache = model.caches['bnn']
    assert cache.num_bytes([0]) == 2 * 3 * 4 * 64 * 80
    assert cache.read(0).shape == (64, 80, 12) and cache.read(0).nbytes == cache.num_bytes([0])
    assert caches_of(tmp_path)[0].joinpath('data.mdb').stat().st_size > cache.num_bytes(range(6))


def test_blind_sizes_model_cache_without_space_for_all_sizes_is_an_error_before_it_is_written(
    noisy_folder, tmp_path, monkeypatch
):
    needed = 2 * 3 * 4 * 64 * 80 * 6
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=needed // 2))
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_cache='lmdb', teacher_blind_sizes=[1, 3, 5, 9])
    with pytest.raises(UserError, match=r'^train.teacher_cache: .* are free. Free some space'):
        trained(opt, tmp_path)
    assert not any(folder.joinpath('data.mdb').exists() for folder in caches_of(tmp_path))


def test_blind_sizes_model_cache_of_other_sizes_is_another(noisy_folder, tmp_path):
    for number, sizes in enumerate(([1, 9], [1, 9], [1, [1, 9], 9], [1, [9, 1], 9])):
        opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_cache='lmdb', teacher_blind_sizes=sizes)
        trained(opt, tmp_path / str(number))
    names = [caches_of(tmp_path / str(number))[0].name for number in range(4)]
    assert names[0] == names[1] and len(set(names)) == 3


def test_blind_sizes_model_cache_auto_logs_its_reason_once(noisy_folder, tmp_path):
    trained(blind_sizes_options(noisy_folder, teacher_cache='auto'), tmp_path)
    assert log_of(tmp_path).count('Teacher cache off') == 1


def test_blind_sizes_model_cache_cost_is_that_of_the_further_sizes(noisy_folder, tmp_path):
    def cost(**keys) -> float:
        opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, 5, 9], **keys)
        return BlindSizesModel(resolve_options(opt, tmp_path, True)).cache_cost('bnn')

    assert cost() == cost(teacher_draw='all') == 1
    assert 1 < cost(teacher_draw='one') == cost(teacher_draw='auto') < 1.5


def step_times(cached_teacher: float) -> StepTimes:
    """A step of 1 s; on the fly the teacher takes 1 s more; the set is worth 60 batches."""
    return StepTimes({'unet': 1.0}, {'bnn': 1.0}, {'bnn': cached_teacher}, {'unet': ('bnn',)}, 60)


@pytest.mark.parametrize(
    ('cached_teacher', 'cache', 'length'), [(1.0, 'lmdb', 540), (4.0, 'lmdb', 360), (6.0, 'off', 300)]
)
def test_allocate_budget_cache_costs_the_predictions_with_all_sizes(cached_teacher, cache, length):
    plan = allocate_budget(step_times(cached_teacher), {'unet': 1}, minutes=10)
    assert (plan.teacher_cache, plan.iters) == (cache, {'unet': length})
    assert plan.total_seconds() == pytest.approx(600)


def test_measure_step_times_teacher_on_the_fly_predicts_with_one_drawn_size(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, 5, 9], teacher_draw='one')
    times = measure_step_times(opt, tmp_path, ['bnn', 'unet'])
    assert times.cached_teacher['bnn'] / times.teacher['bnn'] == pytest.approx((1 + 3 * 0.17) / (1 + 0.17))
    assert set(times.step) == {'bnn', 'unet'} and not (tmp_path / 'experiments').exists()


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


# ---- height and width apart ----


@pytest.mark.parametrize(
    ('cache', 'use_rot', 'has_rectangles'),
    [('memory', True, True), ('off', False, True), ('off', True, False), ('off', None, False)],
)
def test_blind_sizes_model_noise_of_unlike_sides_gives_rectangles_where_images_are_upright(
    noisy_folder, tmp_path, monkeypatch, cache, use_rot, has_rectangles
):
    monkeypatch.setattr(NoiseModel, 'correlation_sides', lambda self: (3, 9))
    opt = blind_sizes_options(noisy_folder, teacher_cache=cache)
    if use_rot is not None:  # by default patches are turned
        opt['datasets']['train']['use_rot'] = use_rot
    sizes = trained(opt, tmp_path).choice.sizes
    assert sizes == ([0, (3, 5), (3, 9)] if has_rectangles else [0, 5, 9])


def test_blind_sizes_model_listed_rectangle_for_turned_patches_is_refused(noisy_folder, tmp_path):
    opt = blind_sizes_options(noisy_folder, 'ATBSNModel', teacher_blind_sizes=[1, [3, 9]])
    with pytest.raises(UserError, match=r'turned by 90 degrees, got \(3, 9\). Set datasets.train.use_rot: false'):
        trained(copy.deepcopy(opt), tmp_path)
    assert not (tmp_path / 'experiments').exists()
    opt['datasets']['train']['use_rot'] = False
    assert trained(opt, tmp_path).choice.sizes == [1, (3, 9)]


@pytest.mark.parametrize('ensemble', [False, True])
def test_blind_sizes_model_cached_prediction_of_a_turned_window_has_the_turned_pair(
    noisy_folder, tmp_path, monkeypatch, ensemble
):
    """Whatever the window's symmetry: within 1x5 pixels nothing reaches a target, and the next pixel does."""
    keys = {'teacher_blind_sizes': [[1, 5]], 'teacher_cache': 'memory', 'teacher_ensemble': ensemble}
    opt = resolve_options(blind_sizes_options(noisy_folder, 'ATBSNModel', **keys), tmp_path, True)
    model = BlindSizesModel(opt)
    image = np.full((64, 80, 3), 0.4, np.float32)
    image[30, 40] = np.nan

    class Images:  # one image, of which the cache asks
        sizes, patch_size, teachers, paths = [(64, 80)], 32, {}, ['a']

        def image(self, index):
            return image

        def content_key(self):
            return {}

        def __len__(self):
            return 1

    seen = {}
    build = 'basicsr_sassid.training.teaching.build_teacher_cache'
    monkeypatch.setattr(build, lambda name, predict, dataset, *_: seen.update(target=predict(dataset.image(0))))
    model.teacher_cache('bnn', Images())
    is_nan = np.isnan(seen['target']).any(axis=2)
    assert not is_nan[30, 38:43].any()
    reached = [(30 + dy, 40 + dx) for dy, dx in ((1, 0), (-1, 0), (0, 3), (0, -3))]
    assert all(is_nan[place] for place in reached)


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


def test_variants_of_blind_sizes_model_are_all_combinations_of_weights_and_draws():
    """VARIANTS leaves none out that the options take."""
    taken = {('risk', 'all'), ('texture', 'all'), ('equal', 'all'), ('equal', 'one')}
    found = {(keys.get('teacher_weights', 'risk'), keys.get('teacher_draw', 'all')) for keys in VARIANTS.values()}
    assert found == taken and taken < set(product(('risk', 'texture', 'equal'), ('all', 'one')))
