"""The teacher cache: what is asked once is what would be asked live, and no cache is taken for another."""
from __future__ import annotations

import copy
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.data.noisy_image_dataset import NoisyImageDataset
from basicsr_sassid.data.teacher_cache import TeacherCache, fingerprint, unpack
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.posterior import PosteriorMean
from basicsr_sassid.ops.dihedral import self_ensemble
from basicsr_sassid.ops.sliding_window import sliding_window_cost, sliding_window_predict, window_starts
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import assert_same, run_code, run_module, tiny_options, weights_of, write_yml


def cached_options(photographs: Path, kind: str = 'lmdb', **changes) -> dict:
    return tiny_options(photographs, teacher_cache=kind, **changes)


def caches_of(folder: Path) -> list[Path]:
    return sorted((folder / 'experiments/tiny/teacher_cache').glob('*.lmdb'))


# ---- windows ----

@pytest.mark.parametrize(('side', 'window'), [(1, 32), (31, 32), (32, 32), (33, 32), (64, 32), (100, 32), (513, 128)])
def test_windows_cover_the_line_and_overlap_by_half(side, window):
    starts = window_starts(side, window)
    assert starts[0] == 0 and starts[-1] == max(side - window, 0)
    assert all(0 < after - before <= window // 2 + 1 for before, after in pairwise(starts))


@pytest.mark.parametrize('ensemble', [False, True])
def test_asking_whole_images_is_asking_each_window(ensemble):
    """The plain twin: a window at a time, turned as its place says, weighed by the distance to its nearer edges."""
    net = BNN(dim=4, blind_size=3).eval()
    image = torch.rand(3, 70, 101) * 255
    answer = sliding_window_predict(net, image, window=32, ensemble=ensemble, batch_size=5)
    total, weights = torch.zeros_like(image), torch.zeros(70, 101)
    ramp = torch.tensor([*range(1, 17), *range(16, 0, -1)]).float()
    with torch.no_grad():
        for row, top in enumerate(window_starts(70, 32)):
            for column, left in enumerate(window_starts(101, 32)):
                window = image[None, :, top:top + 32, left:left + 32]
                answers = []
                for number in range(8) if ensemble else [(3 * row + column) % 8]:
                    turns, flip = divmod(number, 2)
                    y = net(torch.rot90(window.flip(3) if flip else window, turns, (2, 3)))
                    y = torch.rot90(y, 4 - turns, (2, 3))
                    answers.append(y.flip(3) if flip else y)
                weight = ramp[:, None] * ramp
                total[:, top:top + 32, left:left + 32] += torch.stack(answers).mean(0)[0] * weight
                weights[top:top + 32, left:left + 32] += weight
    torch.testing.assert_close(answer, total / weights, rtol=0, atol=1e-2)


@pytest.mark.parametrize('size', [(90, 75), (20, 75), (20, 25)])
def test_a_teacher_without_context_says_the_same_asked_once_or_live(size):
    net = nn.Conv2d(3, 3, 1).requires_grad_(False)
    image = torch.rand(3, *size)
    torch.testing.assert_close(sliding_window_predict(net, image, window=32), net(image[None])[0])
    height, width = (min(side, 32) for side in size)
    assert sliding_window_cost(size, 32) == len(window_starts(size[0], 32)) * len(window_starts(size[1], 32)) * height * width


def test_borders_of_windows_hardly_count():
    """A blur that pads with zeros, as the networks do: live, a patch's corner falls to a third; asked once, not so."""
    image = torch.full((3, 96, 96), 100.)
    net = nn.AvgPool2d(9, stride=1, padding=4)
    live = net(image[None, :, 16:48, 16:48])[0]
    assert live[:, 0, 0].max() < 35
    assert sliding_window_predict(net, image, window=32)[:, 16:80, 16:80].min() > 90


def test_over_symmetries_is_the_mean_of_eight():
    x = torch.rand(2, 3, 6, 9)
    net = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
    plain = []
    for view in (x, x.flip(3), x.flip(2), x.flip(2, 3)):
        plain.append(net(view))
    plain = [y.flip(dims) if dims else y for y, dims in zip(plain, ((), (3,), (2,), (2, 3)))]
    turned = x.transpose(2, 3)
    for dims in ((), (3,), (2,), (2, 3)):
        plain.append(net(turned.flip(dims)).flip(dims).transpose(2, 3))
    torch.testing.assert_close(self_ensemble(net, x), torch.stack(plain).mean(0))
    symmetric = nn.AvgPool2d(3, 1, 1)
    torch.testing.assert_close(self_ensemble(symmetric, x), symmetric(x))


# ---- files ----

@pytest.mark.parametrize('in_memory', [True, False])
def test_an_answer_is_kept_to_a_hundredth_of_a_grey_level(tmp_path, in_memory):
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


def test_beyond_its_range_an_answer_is_clipped_not_wrapped(tmp_path):
    cache = TeacherCache(None, [(1, 2)])
    cache.write([(0, np.array([[[-3.], [7.]]]))])
    np.testing.assert_allclose(unpack(cache.read(0)).ravel(), [-0.25, 1.25], atol=1e-6)


def test_a_fingerprint_is_of_weights_images_and_settings():
    state, dataset, settings = BNN(dim=4).state_dict(), {'paths': ['a']}, {'window': 32}
    names = {fingerprint(state, dataset, settings)}
    assert fingerprint({key: value.clone() for key, value in reversed(state.items())}, dataset, settings) in names
    changed = {**state, 'head.bias': state['head.bias'] + 1e-6}
    names |= {fingerprint(changed, dataset, settings), fingerprint(state, {'paths': ['b']}, settings),
              fingerprint(state, dataset, {'window': 64})}
    assert len(names) == 4


def test_another_file_under_the_same_name_is_another_dataset(photographs):
    def content_key():
        return NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(photographs), 'patch_size': 32}).content_key()
    first = content_key()
    assert content_key() == first
    shutil.copy(photographs / '1.png', photographs / '0.png')
    assert content_key() != first


def test_no_space_is_said_before_anything_is_asked(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(10 ** 6, 10 ** 6, 1000))
    with pytest.raises(UserError, match=r'teacher_cache: .*lmdb needs 0.0 GB, 0.0 GB are free. Free some space'):
        train(resolve_options(cached_options(photographs), tmp_path, True))


# ---- training ----

def test_patch_and_answer_are_cut_flipped_and_turned_alike(photographs):
    dataset = NoisyImageDataset({'phase': 'train', 'dataroot_lq': str(photographs), 'patch_size': 32})
    cache = TeacherCache(None, dataset.sizes)
    cache.write((index, dataset.image(index)) for index in range(len(dataset)))
    dataset.teachers = {'self': cache}
    for draw in range(30):
        sample = dataset[draw % 6]
        torch.testing.assert_close(sample['teacher_self'], sample['lq'], rtol=0, atol=3e-5)


@pytest.mark.parametrize('kind', ['lmdb', 'memory'])
def test_the_cached_teacher_is_not_asked_again(photographs, tmp_path, monkeypatch, kind):
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
def test_what_is_trained_on_is_the_teachers_answer(photographs, tmp_path, monkeypatch, posterior):
    """A patch as large as the image is one window, in the first symmetry: there the cached answer is the live one."""
    opt = cached_options(photographs, posterior=posterior)
    opt['datasets']['train'].update(patch_size=64, use_hflip=False, use_rot=False)
    for path in photographs.iterdir():
        import cv2
        cv2.imwrite(str(path), cv2.imread(str(path))[:, :64])
    seen = []
    step = StagedModel.optimize_parameters

    def compare(self, i):
        if self.stage.name != 'bnn':
            live = self.nets['bnn'](self.lq * 255)
            blended = self.postprocess_target('bnn', live, self.lq * 255)
            assert ((blended - live).abs().mean() > 1) == posterior
            live = blended
            seen.append((live / 255).clamp(-0.25, 1.25).sub(self.answers['bnn']).abs().max().item() * 255)
        return step(self, i)
    monkeypatch.setattr(StagedModel, 'optimize_parameters', compare)
    train(resolve_options(opt, tmp_path, True))
    assert len(seen) == 8 and max(seen) < 0.01


def test_the_posterior_needs_whole_images(photographs, tmp_path):
    opt = cached_options(photographs, 'off', posterior=True)
    opt['datasets']['train'].update(type='PairedImageDataset', dataroot_gt=str(photographs), gt_size=32)
    del opt['datasets']['train']['patch_size']
    with pytest.raises(UserError, match=r'train.posterior needs NoisyImageDataset, not PairedImageDataset'):
        train(resolve_options(opt, tmp_path, True))
    opt['train']['posterior'] = 'yes'
    with pytest.raises(UserError, match='train.posterior: expected one of True, False, auto'):
        resolve_options(opt, tmp_path, True)


@pytest.mark.parametrize(('error', 'blended'), [(9., True), (3., False)])
def test_auto_blends_where_the_bnn_errs_by_more_than_the_noise(photographs, tmp_path, monkeypatch, error, blended):
    monkeypatch.setattr(PosteriorMean, 'compare', lambda *_: (error, 4.))
    model = train(resolve_options(cached_options(photographs, 'off', posterior='auto'), tmp_path, True))
    assert model.blends == blended and bool(model.cache_settings('bnn')) == blended
    answer, lq = torch.rand(2, 1, 3, 32, 32) * 255
    assert torch.equal(model.postprocess_target('bnn', answer, lq), answer) != blended
    assert model.postprocess_target('lan', answer, lq) is answer


def test_the_posterior_is_the_same_in_half_precision():
    noise = estimate_noise([np.random.default_rng(0).normal(0.5, 0.05, (64, 64, 3))])
    prediction, noisy = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 255.)
    prediction[..., 3, 3] = -20.
    alone = PosteriorMean(noise)(prediction, noisy)
    with torch.autocast('cpu', torch.float16):
        inside = PosteriorMean(noise)(prediction, noisy)
    assert torch.equal(alone, inside) and alone.isfinite().all()


def test_auto_asks_once_where_that_is_less_work(photographs, tmp_path):
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
        assert ('No teacher cache' in log) != pays


def test_a_bare_off_in_yaml_is_off(photographs, tmp_path):
    yml = write_yml(tiny_options(photographs), tmp_path / 'tiny.yml')
    done = run_module('basicsr_sassid.train', '-opt', yml, '--force_yml', 'train:teacher_cache=off', cwd=tmp_path)
    assert 'End of training' in done.stdout and not caches_of(tmp_path)


def test_killed_while_asking_it_goes_on_and_ends_the_same(photographs, tmp_path):
    opt = cached_options(photographs, teacher_ensemble=True)
    opt['logger']['save_checkpoint_freq'] = 100
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    whole.mkdir()
    killed.mkdir()
    run_module('basicsr_sassid.train', '-opt', yml, cwd=whole)
    # what a kill leaves: the first stage's end, and a cache with some answers
    code = ('import os, signal, basicsr_sassid.training.teachers as m, basicsr_sassid.train as t\n'
            'predict, calls = m.sliding_window_predict, []\n'
            'm.sliding_window_predict = lambda *a, **k: calls.append(1) or (os.killpg(0, signal.SIGKILL) '
            'if len(calls) == 4 '
            'else predict(*a, **k))\n'
            f't.main(["-opt", {yml!r}, "--auto_resume"])')
    assert run_code(code, killed).returncode == -signal.SIGKILL
    assert len(TeacherCache(caches_of(killed)[0], [(64, 80)] * 6).missing()) == 3
    done = run_module('basicsr_sassid.train', '-opt', yml, '--auto_resume', cwd=killed)
    assert 'Resuming from iteration 4' in done.stdout and 'asked about 3 of 6 images' in done.stdout
    assert [path.name for path in caches_of(killed)] == [path.name for path in caches_of(whole)]
    assert_same(weights_of(whole), weights_of(killed))


@pytest.mark.parametrize('kind', ['lmdb', 'memory'])
def test_two_processes_share_the_asking(photographs, tmp_path, kind):
    opt = cached_options(photographs, kind)
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    for folder in ('one', 'two'):
        (tmp_path / folder).mkdir()
    done = run_module('basicsr_sassid.train', '-opt', yml, '--launcher', 'pytorch', cwd=tmp_path / 'two',
                      launcher=('torch.distributed.run', '--nproc_per_node=2', '--standalone', '-m'))
    assert 'asked about 6 of 6 images' in done.stdout
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    run_module('basicsr_sassid.train', '-opt', write_yml(opt, tmp_path / 'doubled.yml'), cwd=tmp_path / 'one')
    # the same to uint16's steps: the answers are of two processes' batches
    assert_same(weights_of(tmp_path / 'one'), weights_of(tmp_path / 'two'), rtol=1e-3, atol=1e-3)


def test_fp16_trains_with_a_scaler_that_is_resumed(photographs, tmp_path):
    opt = tiny_options(photographs, precision='fp16', grad_clip=10.)
    for block in opt['train']['stages'].values():
        block['iter'] = 10  # the first few are skipped, until the scale has come down
    model = train(resolve_options(copy.deepcopy(opt), tmp_path, True))
    assert model.dtype == torch.float16 and model.scaler.is_enabled()
    states = tmp_path / 'experiments/tiny/training_states'
    state = torch.load(states / '30.state', weights_only=True)
    assert state['scaler']['scale'] > 0 and state['scaler']['_growth_tracker'] > 0
    whole = weights_of(tmp_path)
    for name in ('30.state', '27.state'):
        (states / name).unlink()
    train(resolve_options(opt, tmp_path, True, auto_resume=True))
    assert_same(whole, weights_of(tmp_path))
    assert torch.load(states / '30.state', weights_only=True)['scaler'] == state['scaler']


def test_a_lan_that_sees_more_than_the_blind_square_is_warned_of(photographs, tmp_path):
    opt = tiny_options(photographs)
    opt['network_bnn']['blind_size'], opt['network_lan']['receptive_size'] = 5, 7
    with pytest.warns(UserWarning, match='receptive_size 7 is larger than network_bnn.blind_size 5'):
        resolve_options(opt, tmp_path, True)
