"""Option files and command lines: what a user types, and the errors."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network as basicsr_build_network

from basicsr_sassid.io.checkpoint import build_network
from basicsr_sassid.training.options import read_options, resolve_options
from basicsr_sassid.utils.errors import UserError
from sassid import main

from helpers import ROOT, run_module, tiny_options

OPTION_FILES = sorted(path for path in (ROOT / 'options').rglob('*.yml') if path.parent.name != 'evaluation')


@pytest.mark.parametrize('path', OPTION_FILES, ids=lambda path: f'{path.parent.name}/{path.name}')
def test_option_file_resolves_and_builds_its_networks(path, tmp_path):
    opt = read_options(path)
    for block in opt['datasets'].values():
        for key in ('dataroot_lq', 'dataroot_gt'):
            if key in block:
                block[key] = str(tmp_path)  # the photographs are the user's
    teachers = [
        key
        for key in opt['path']
        if key in ('pretrain_network_teacher', 'pretrain_network_flat', 'pretrain_network_texture')
    ]
    opt['path'] = {**dict.fromkeys(opt['path']), **dict.fromkeys(teachers, str(path))}  # the user's too
    resolve_options(opt, tmp_path, is_train='train' in opt)
    for key in opt:
        if key.startswith('network_'):
            with torch.device('meta'):
                build_network(opt[key], key)
    assert f'options/{path.parent.name}/{path.name}' in path.read_text(), 'the launch command stands on top'


def test_train_sidd_has_the_papers_settings():
    opt = read_options(ROOT / 'options/sassid/train_sidd.yml')
    assert [block['iter'] for block in opt['train']['stages'].values()] == [400_000] * 3
    assert all(block['optim'] == {'type': 'Adam', 'lr': 3e-4} for block in opt['train']['stages'].values())
    assert opt['train']['texture'] == {'window': 7, 'lower': 1, 'upper': 5}
    assert (opt['datasets']['train']['patch_size'], opt['datasets']['train']['batch_size_per_gpu']) == (256, 8)


def test_read_options_reads_numbers_as_numbers(tmp_path):
    path = tmp_path / 'a.yml'
    path.write_text('a: 1e-4\nb: {c: 2, d: -1.5e3, e: name1e5}\n')
    opt = read_options(path, ['b:c=1e-3', 'b:new:deep=[1, 2]', 'a=-1', 'x=true', 'y=a=b'])
    assert opt == {
        'a': -1,
        'b': {'c': 1e-3, 'd': -1500.0, 'e': 'name1e5', 'new': {'deep': [1, 2]}},
        'x': True,
        'y': 'a=b',
    }
    path.write_text('a: 1\na: 2\n')
    with pytest.raises(UserError, match="key 'a' is there twice"):
        read_options(path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (['train:ema_dacay=0.9'], r"train: unknown key 'ema_dacay'. Did you mean 'ema_decay'"),
        (['train:stages:bnn:iters=3'], r"train.stages.bnn: unknown key 'iters'. Did you mean 'iter'"),
        (['train:stages:bnn:optim:type=Adamm'], r'train.stages.bnn.optim.type: expected one of .*Adam.*, got .Adamm'),
        (['train:stages:bnn:scheduler:gama=1'], r"train.stages.bnn.scheduler: unknown key 'gama'"),
        (['train:texture:windw=5'], r"train.texture: unknown key 'windw'. Did you mean 'window'"),
        (['train:precision=fp8'], r'train.precision: expected one of auto, fp32, bf16, fp16, got .fp8'),
        (['train:total_iter=5'], r"train.total_iter: 5 is not the sum of the stages' iter, 12"),
        (['network_bnn:blind_size=8'], r'network_bnn: blind_size: expected an odd number .* got 8'),
        (['network_bnn:blindsize=9'], r"network_bnn: unknown key 'blindsize'. Did you mean 'blind_size'"),
        (['network_g:type=UNetz'], r"network_g.type: nothing is registered as 'UNetz'. Registered: .*BNN"),
        (
            ['model_type=ThreeStage'],
            r"model_type: nothing is registered as 'ThreeStage'. Registered: .*ThreeStageModel",
        ),
        (['datasets:train:type=Noisy'], r"datasets.train.type: nothing is registered as 'Noisy'"),
        (['datasets:train:dataroot_lq=/nowhere'], r'datasets.train.dataroot_lq: no such file or folder: /nowhere'),
        (['datasets:train:patch_size=99'], r'patch_size: 99 is larger than .*0.png \(64x80'),
        (['num_gpu=1'], r'num_gpu: 1 asked for, torch finds 0 here. Set num_gpu: auto'),
        (['path:pretrain_network_g=/no.pth'], r'path.pretrain_network_g: no such file'),
        (['valid:x=1'], r"options: unknown key 'valid'. Did you mean 'val'"),
        (['logger:print_frq=1'], r"logger: unknown key 'print_frq'. Did you mean 'print_freq'"),
    ],
)
def test_train_with_a_wrong_option_prints_one_paragraph(photographs, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.yml').write_text(yaml.safe_dump(tiny_options(photographs), sort_keys=False))
    with pytest.raises(SystemExit) as stop:
        main(['train', '-opt', 'a.yml', '--force_yml', *changes])
    said = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in said if line.startswith('error: ')]
    assert stop.value.code == 2 and len(errors) == 1 and said[-1] == errors[0]

    assert re.search(message, errors[0]), errors[0]


def test_stages_out_of_order_are_an_error(photographs, tmp_path):
    opt = tiny_options(photographs)
    opt['train']['stages'] = {name: opt['train']['stages'][name] for name in ('lan', 'bnn', 'unet')}
    with pytest.raises(UserError, match='train.stages: expected the order bnn, lan, unet .* got lan, bnn, unet'):
        resolve_options(opt, tmp_path, True)


def test_weights_of_another_width_are_an_error(photographs, tmp_path):
    from basicsr_sassid.models.three_stage_model import ThreeStageModel

    opt = tiny_options(photographs)
    torch.save({'params': basicsr_build_network({'type': 'BNN', 'dim': 8}).state_dict()}, tmp_path / 'bnn.pth')
    opt['path'] = {'pretrain_network_bnn': str(tmp_path / 'bnn.pth')}
    with pytest.raises(UserError, match=r'bnn.pth does not fit BNN. The file looks like BNN\(.*dim=8\); the network'):
        ThreeStageModel(resolve_options(opt, tmp_path, True))


@pytest.mark.parametrize(
    'words',
    [
        ['prepare', 'folder', 'nowhere', '-o', 'x.lmdb'],
        ['denoise', 'nowhere', '-o', 'out', '--weights', 'w.pth'],
        ['denoise', '.', '-o', 'out', '--weights', 'w.pth'],
        ['train', '-opt', 'nowhere.yml'],
        ['test', '-opt', 'bad.yml'],
    ],
)
def test_command_with_wrong_arguments_prints_one_paragraph(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'bad.yml').write_text('a: [1,')
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith('error: ')


def test_prepare_and_denoise_as_typed_write_their_files(photographs, tmp_path):
    done = run_module('sassid', 'prepare', 'folder', str(photographs), '-o', 'x.lmdb', '--size', '40', cwd=tmp_path)
    assert 'x.lmdb: 24 sub-images of 6 photographs' in done.stdout
    torch.save({'params': basicsr_build_network({'type': 'DenoisingUNet', 'dim': 4}).state_dict()}, tmp_path / 'g.pth')
    run_module('sassid', 'denoise', str(photographs), '-o', 'out', '--weights', 'g.pth', cwd=tmp_path)
    assert len(list((tmp_path / 'out').glob('*.png'))) == 6
    assert cv2.imread(str(tmp_path / 'out/0.png')).shape == (64, 80, 3)


@pytest.mark.parametrize('first', ['import basicsr_sassid, basicsr', 'import basicsr_sassid.archs.bnn_arch, basicsr'])
def test_import_of_the_package_makes_basicsr_importable(tmp_path, first):

    code = (
        f'{first}; from basicsr.archs import build_network; import basicsr_sassid; '
        "print(build_network({'type': 'BNN', 'dim': 4}).blind_size)"
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.split()[-1] == '9', done.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_training_on_real_noise_gains_three_decibels(real_pairs, tmp_path, monkeypatch):
    """Eight smartphone blocks, a few hundred iterations: far from trained, yet decibels above its input."""
    from basicsr.metrics import calculate_psnr

    from basicsr_sassid import Denoiser
    from basicsr_sassid.training.loop import train

    noisy, clean = tmp_path / 'noisy', real_pairs[1]
    noisy.mkdir()
    for path in sorted(Path(real_pairs[0]).glob('*.png'))[::20]:
        (noisy / path.name).symlink_to(path)
    opt = tiny_options(noisy)
    opt['network_bnn'], opt['network_g'] = {'type': 'BNN', 'dim': 8}, {'type': 'DenoisingUNet', 'dim': 8}
    opt['network_lan'] = {'type': 'LAN', 'dim': 16, 'receptive_size': 7}
    opt['datasets']['train']['patch_size'] = 96
    for name, length in (('bnn', 300), ('lan', 200), ('unet', 250)):
        opt['train']['stages'][name] = {
            'iter': length,
            'optim': {'type': 'Adam', 'lr': 4e-3},
            'scheduler': {'type': 'OneCycleLR', 'max_lr': 4e-3, 'pct_start': 0.1},
        }
    opt['train'].update(precision='auto', grad_clip=100)
    opt['logger'].update(print_freq=100, save_checkpoint_freq=10_000)
    train(resolve_options(opt, tmp_path, True))
    denoise = Denoiser(tmp_path / 'experiments/tiny/models/net_g_latest.pth')
    gains = []
    for path in sorted(noisy.iterdir()):
        image, reference = (cv2.imread(str(folder / path.name))[..., ::-1].copy() for folder in (noisy, clean))
        gains.append(calculate_psnr(denoise(image), reference, 0) - calculate_psnr(image, reference, 0))
    assert np.mean(gains) > 3, gains


def test_options_page_is_up_to_date():
    done = subprocess.run(
        [sys.executable, 'docs/generate_options.py', '--check'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_pyproject_lists_every_package():
    listed = set(re.findall(r"'(basicsr_sassid[\w.]*)',", (ROOT / 'pyproject.toml').read_text()))
    packages = {
        '.'.join(path.parent.relative_to(ROOT).parts) for path in (ROOT / 'basicsr_sassid').rglob('__init__.py')
    }
    options = {f'basicsr_sassid.options.{path.name}' for path in (ROOT / 'options').iterdir() if path.is_dir()}
    assert packages | options <= listed


def test_resolve_options_leaves_the_callers_dict_unchanged(photographs, tmp_path):
    opt = tiny_options(photographs)
    before = copy.deepcopy(opt)
    resolve_options(opt, tmp_path, True)
    assert opt == before
