"""The teacher cache: cached targets equal live ones, and no cache is taken for another."""

from __future__ import annotations

import copy
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.data.noisy_image_dataset import NoisyImageDataset
from basicsr_sassid.data.teacher_cache import TeacherCache, fingerprint, unpack
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.posterior import PosteriorMean
from basicsr_sassid.ops.sliding_window import sliding_window_cost, window_starts
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import (
    assert_same,
    caches_of,
    run_code,
    run_module,
    tiny_options,
    train_in_two_processes,
    weights_of,
    without_dry_run,
    write_yml,
)


def cached_options(photographs: Path, kind: str = 'lmdb', **changes) -> dict:
    return tiny_options(photographs, teacher_cache=kind, **changes)


# ---- files ----


@pytest.mark.parametrize('in_memory', [True, False])
def test_teacher_cache_keeps_a_hundredth_of_a_grey_level(tmp_path, in_memory):
    rng = np.random.default_rng(0)
    answers = [rng.uniform(-0.25, 1.25, (5, 7, 3)).astype(np.float32), rng.uniform(0, 1, (8, 4, 3)).astype(np.float32)]
    cache = TeacherCache(None if in_memory else tmp_path / 'x.lmdb', [(5, 7), (8, 4)])
    assert cache.missing() == [0, 1]
    cache.write([(1, answers[1])])
    assert cache.missing() == [0]
    cache.write([(0, answers[0])])
    assert cache.missing() == []
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(unpack(cache.read(index)), answer, atol=0.006 / 255)
    assert cache.num_bytes([0, 1]) == 6 * (35 + 32)


def test_teacher_cache_clips_values_beyond_its_range(tmp_path):
    cache = TeacherCache(None, [(1, 2)])
    cache.write([(0, np.array([[[-3.0], [7.0]]]))])
    np.testing.assert_allclose(unpack(cache.read(0)).ravel(), [-0.25, 1.25], atol=1e-6)


def test_fingerprint_depends_on_weights_images_and_settings():
    state, dataset, settings = BNN(dim=4).state_dict(), {'paths': ['a']}, {'window': 32}
    names = {fingerprint(state, dataset, settings)}
    assert fingerprint({key: value.clone() for key, value in reversed(state.items())}, dataset, settings) in names
    changed = {**state, 'head.bias': state['head.bias'] + 1e-6}
    names |= {
        fingerprint(changed, dataset, settings),
        fingerprint(state, {'paths': ['b']}, settings),
        fingerprint(state, dataset, {'window': 64}),
    }
    assert len(names) == 4


def test_content_key_of_a_replaced_file_differs(photographs):
    def content_key():
        return NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(photographs), 'patch_size': 32}).content_key()

    first = content_key()
    assert content_key() == first
    shutil.copy(photographs / '1.png', photographs / '0.png')
    assert content_key() != first


def test_teacher_cache_without_space_is_an_error_before_it_starts(photographs, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r'teacher_cache: .*lmdb needs 0.0 GB, 0.0 GB are free. Free some space'):
        train(resolve_options(cached_options(photographs), tmp_path, True))


# ---- training ----


def test_dataset_crops_patch_and_cached_target_alike(photographs):
    dataset = NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(photographs), 'patch_size': 32})
    cache = TeacherCache(None, dataset.sizes)
    cache.write((index, dataset.image(index)) for index in range(len(dataset)))
    dataset.teachers = {'self': cache}
    for draw in range(30):
        sample = dataset[draw % 6]
        torch.testing.assert_close(sample['teacher_self'], sample['lq'], rtol=0, atol=3e-5)


@pytest.mark.parametrize('kind', ['lmdb', 'memory'])
def test_teacher_with_a_cache_predicts_each_image_once(photographs, tmp_path, monkeypatch, kind):
    without_dry_run(monkeypatch)
    asked = []
    forward = BNN.forward
    monkeypatch.setattr(BNN, 'forward', lambda self, x: (asked.append(self.training), forward(self, x))[1])
    opt = cached_options(photographs, kind)
    model = train(resolve_options(opt, tmp_path, True))
    assert model.stages[2].name == 'unet' and asked.count(True) == 4
    windows = 6 * len(window_starts(64, 32)) * len(window_starts(80, 32))
    # batches of 2, or of 1 where a symmetry has one window only; once for both stages
    assert windows // 2 <= asked.count(False) <= windows
    assert len(caches_of(tmp_path)) == (kind == 'lmdb')


@pytest.mark.parametrize('posterior', [False, True])
def test_cached_target_equals_the_live_target(photographs, tmp_path, monkeypatch, posterior):
    without_dry_run(monkeypatch)
    """A patch as large as the image is one window, in the first symmetry: there the cached answer is the live one."""
    opt = cached_options(photographs, posterior=posterior)
    opt['datasets']['train'].update(patch_size=64, use_hflip=False, use_rot=False)
    for path in photographs.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:, :64])
    seen = []
    step = StagedModel.optimize_parameters

    def compare(self, i):
        if self.stage.name != 'bnn':
            live = self.nets['bnn'](self.lq * 255)
            blended = self.postprocess_target('bnn', live, self.lq * 255)
            assert ((blended - live).abs().mean() > 1) == posterior
            live = blended
            seen.append((live / 255).clamp(-0.25, 1.25).sub(self.cached_targets['bnn']).abs().max().item() * 255)
        return step(self, i)

    monkeypatch.setattr(StagedModel, 'optimize_parameters', compare)
    train(resolve_options(opt, tmp_path, True))
    assert len(seen) == 8 and max(seen) < 0.01


def test_posterior_with_patches_alone_is_an_error(photographs, tmp_path):
    opt = cached_options(photographs, 'off', posterior=True)
    opt['datasets']['train'].update(type='PairedImageDataset', dataroot_gt=str(photographs), gt_size=32)
    del opt['datasets']['train']['patch_size']
    with pytest.raises(UserError, match=r'train.posterior needs NoisyImageDataset, not PairedImageDataset'):
        train(resolve_options(opt, tmp_path, True))
    opt['train']['posterior'] = 'yes'
    with pytest.raises(UserError, match='train.posterior: expected one of True, False, auto'):
        resolve_options(opt, tmp_path, True)


@pytest.mark.parametrize(('error', 'blended'), [(9.0, True), (3.0, False)])
def test_posterior_auto_is_used_where_the_error_exceeds_the_noise(photographs, tmp_path, monkeypatch, error, blended):
    monkeypatch.setattr(PosteriorMean, 'compare', lambda *_: (error, 4.0))
    model = train(resolve_options(cached_options(photographs, 'off', posterior='auto'), tmp_path, True))
    assert model.use_posterior == blended and bool(model.cache_settings('bnn')) == blended
    answer, lq = torch.rand(2, 1, 3, 32, 32) * 255
    assert torch.equal(model.postprocess_target('bnn', answer, lq), answer) != blended
    assert model.postprocess_target('lan', answer, lq) is answer


def test_posterior_mean_under_autocast_stays_in_float32():
    noise = estimate_noise([np.random.default_rng(0).normal(0.5, 0.05, (64, 64, 3))])
    prediction, noisy = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 255.0)
    prediction[..., 3, 3] = -20.0
    alone = PosteriorMean(noise)(prediction, noisy)
    with torch.autocast('cpu', torch.float16):
        inside = PosteriorMean(noise)(prediction, noisy)
    assert torch.equal(alone, inside) and alone.isfinite().all()


def test_teacher_cache_auto_is_used_where_it_is_less_work(photographs, tmp_path):
    # asked once: 6 images x 12 windows of 32x32; asked live: 8 iterations x 2 patches
    assert sliding_window_cost((64, 80), 32) == 12 * 32 * 32
    for iterations, pays in ((17, False), (18, True)):
        opt = cached_options(photographs, 'auto')
        for name in ('lan', 'unet'):
            opt['train']['stages'][name]['iter'] = iterations
        folder = tmp_path / str(iterations)
        train(resolve_options(opt, folder, True))
        assert len(caches_of(folder)) == pays
        log = next((folder / 'experiments' / 'tiny').glob('train_*.log')).read_text()
        assert ('Teacher cache off' in log) != pays


def test_teacher_cache_bare_off_in_yaml_is_off(photographs, tmp_path):
    yml = write_yml(tiny_options(photographs), tmp_path / 'tiny.yml')
    done = run_module('basicsr_sassid.train', '-opt', yml, '--force_yml', 'train:teacher_cache=off', cwd=tmp_path)
    assert 'End of training' in done.stdout and not caches_of(tmp_path)


@pytest.mark.slow
def test_teacher_cache_killed_equals_the_uninterrupted_one(photographs, tmp_path):
    opt = cached_options(photographs, teacher_ensemble=True)
    opt['logger']['save_checkpoint_freq'] = 100
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir()
    killed.mkdir()
    run_module('basicsr_sassid.train', '-opt', yml, cwd=whole)
    # what a kill leaves: the first stage's end, and a cache with some answers
    code = (
        'import os, signal, basicsr_sassid.training.pseudo_targets as m, basicsr_sassid.train as t\n'
        'predict, calls = m.sliding_window_predict, []\n'
        'm.sliding_window_predict = lambda *a, **k: calls.append(1) or (os.killpg(0, signal.SIGKILL) '
        'if len(calls) == 4 '
        'else predict(*a, **k))\n'
        f't.main(["-opt", {yml!r}, "--auto_resume"])'
    )
    assert run_code(code, killed).returncode == -signal.SIGKILL
    assert len(TeacherCache(caches_of(killed)[0], [(64, 80)] * 6).missing()) == 3
    done = run_module('basicsr_sassid.train', '-opt', yml, '--auto_resume', cwd=killed)
    assert 'Resuming from iteration 4' in done.stdout and 'predicts 3 of 6 images' in done.stdout
    assert [path.name for path in caches_of(killed)] == [path.name for path in caches_of(whole)]
    assert_same(weights_of(whole), weights_of(killed))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize('kind', ['lmdb', 'memory'])
def test_two_processes_share_a_teacher_cache(photographs, tmp_path, kind):
    opt = cached_options(photographs, kind)
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
    done = train_in_two_processes(yml, tmp_path / 'two')
    assert 'predicts 6 of 6 images' in done.stdout
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    run_module('basicsr_sassid.train', '-opt', write_yml(opt, tmp_path / 'doubled.yml'), cwd=tmp_path / 'one')
    # the same to uint16's steps: the answers are of two processes' batches
    assert_same(weights_of(tmp_path / 'one'), weights_of(tmp_path / 'two'), rtol=1e-3, atol=1e-3)


def test_fp16_training_resumes_its_gradient_scaler(photographs, tmp_path):
    opt = tiny_options(photographs, precision='fp16', grad_clip=10.0)
    for block in opt['train']['stages'].values():
        block['iter'] = 10  # the first few are skipped, until the scale has come down
    model = train(resolve_options(copy.deepcopy(opt), tmp_path, True))
    assert model.dtype == torch.float16 and model.running.scaler.is_enabled()
    states = tmp_path / 'experiments/tiny/training_states'
    state = torch.load(states / '30.state', weights_only=True)
    assert state['scaler']['scale'] > 0 and state['scaler']['_growth_tracker'] > 0
    whole = weights_of(tmp_path)
    for name in ('30.state', '27.state'):
        (states / name).unlink()
    train(resolve_options(opt, tmp_path, True, auto_resume=True))
    assert_same(whole, weights_of(tmp_path))
    assert torch.load(states / '30.state', weights_only=True)['scaler'] == state['scaler']


def test_sassid_warns_if_receptive_size_exceeds_blind_size(photographs, tmp_path):
    opt = tiny_options(photographs)
    opt['network_bnn']['blind_size'], opt['network_lan']['receptive_size'] = 5, 7
    with pytest.warns(UserWarning, match='receptive_size 7 is larger than network_bnn.blind_size 5'):
        resolve_options(opt, tmp_path, True)
