"""Whole trainings of SFDModel: killed, and on crops and images of odd sizes."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
import torch
from basicsr.archs.srvgg_arch import SRVGGNetCompact
from torch import Tensor

from basicsr_sassid.training.datasets import complete_dataset, open_dataset
from sassid import main

from helpers import (
    ROOT,
    assert_same,
    latest_params,
    log_of,
    paired_dataset,
    run_module,
    train_in_two_processes,
    trained,
    write_yml,
)
from killed_runs import train_until_killed
from sfd_scenes import BACKBONE


@pytest.fixture
def opt(sfd_options) -> dict:
    return sfd_options


# ---- killed ----


def flat(content: object, name: str = '') -> dict[str, object]:
    """The values of nested blocks by their place."""
    if not isinstance(content, dict):
        return {name: content}
    return {place: entry for key, value in content.items() for place, entry in flat(value, f'{name}.{key}').items()}


def network_files(folder: Path) -> dict[str, object]:
    """Content of all files of networks and of SFD-IQA."""
    models = folder / 'experiments/tiny/models'
    return flat({path.stem: torch.load(path, weights_only=True) for path in models.glob('*.pth')})


@pytest.mark.slow
def test_realworld_sfd_model_killed_after_its_first_state_equals_the_uninterrupted_run(realworld_options, tmp_path):
    realworld_options['train'].update(ema_decay=0.9, total_iter=8)
    run_killed(realworld_options, tmp_path, 'sfd_realworld_model.RealWorldSFDModel')


@pytest.mark.slow
@pytest.mark.multiprocess
def test_realworld_sfd_model_in_two_processes_has_a_pool_each_and_resumes(realworld_options, tmp_path):
    yml = write_yml(realworld_options, tmp_path / 'tiny.yml')
    train_in_two_processes(yml, tmp_path)
    states = tmp_path / 'experiments/tiny/training_states'
    pools = [torch.load(states / f'6_pool_{rank}.pth', weights_only=True)['queue_gt'] for rank in (0, 1)]
    assert pools[0].shape == pools[1].shape and not torch.equal(*pools)
    whole = {name: latest_params(tmp_path, 'tiny', name) for name in ('g', 'feature_d', 'prompt')}
    for path in (states / '6.state', *states.glob('6_pool_*'), *(states.parent / 'models').glob('*_6.pth')):
        path.unlink()
    train_in_two_processes(yml, tmp_path, '--auto_resume')
    for name, params in whole.items():
        assert_same(params, latest_params(tmp_path, 'tiny', name))


@pytest.mark.slow
def test_sfd_model_killed_after_its_first_state_equals_the_uninterrupted_run(opt, tmp_path):
    opt['train']['ema_decay'] = 0.9
    run_killed(opt, tmp_path, 'sfd_model.SFDModel')


def run_killed(opt: dict, tmp_path: Path, model: str) -> None:
    """Kill a training behind iteration 3, continue it, and compare its files with those of one that was not killed."""
    opt['train']['sfd_opt'].update(features={**BACKBONE, 'weights': 'random'}, text_interval=2)
    opt['datasets']['train']['num_worker_per_gpu'] = 1
    yml = write_yml(opt, tmp_path / 'tiny.yml')
    whole, cwd = tmp_path / 'whole', tmp_path / 'killed'
    for folder in (whole, cwd):
        folder.mkdir()
    run_module('basicsr_sassid.train', '-opt', yml, cwd=whole)
    train_until_killed(yml, cwd, 'step', 3, model)
    assert [path.name for path in (cwd / 'experiments/tiny/training_states').glob('*.state')] == ['2.state']
    done = run_module('basicsr_sassid.train', '-opt', yml, '--auto_resume', cwd=cwd)
    assert 'Resuming from iteration 2' in done.stdout
    expected, found = network_files(whole), network_files(cwd)
    for place in ('net_g_8.params_ema', 'net_prompt_8.params', 'sfd_8.feature_d.params', 'sfd_8.prompt.params'):
        assert any(name.startswith(f'.{place}.') for name in expected)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]) if isinstance(value, Tensor) else value == found[name], name


# ---- sizes ----


def at_scale_four(opt: dict, photographs: Path, folder: Path, gt_size: int) -> dict:
    """Crops of ``gt_size`` from images of 128x160 pixels. The final feature has the same length for every size."""
    low, high = folder / 'low', folder / 'high'
    for place, factor in ((low, 0.5), (high, 2)):
        place.mkdir()
        for path in sorted(photographs.glob('*.png')):
            image = cv2.resize(cv2.imread(str(path)), None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(place / path.name), image)
    opt['scale'] = opt['network_g']['upscale'] = 4
    opt['datasets'] = {'train': paired_dataset(low, high, gt_size=gt_size, batch=2)}
    opt['train']['sfd_opt']['features']['final_layer'] = 'logits'
    opt['network_prompt']['num_features'] = 1000
    opt['train']['total_iter'] = 3
    opt['logger'].update(print_freq=1, save_checkpoint_freq=1)
    return opt


@pytest.mark.parametrize('variant', ['unet', 'patch', 'pixel'])
@pytest.mark.parametrize('gt_size', [68, 100])
def test_sfd_model_crops_of_any_size_train_each_variant(opt, photographs, tmp_path, gt_size, variant):
    """BasicSR's image-level discriminators need multiples of 8, or 128 pixels; Feat-D needs neither."""
    opt = at_scale_four(opt, photographs, tmp_path, gt_size)
    opt['network_feature_d']['variant'] = variant
    del opt['train']['gan_opt'], opt['train']['optim_d'], opt['network_d']
    model = trained(opt, tmp_path)
    assert model.gt.shape[2:] == (gt_size, gt_size)
    log = model.get_current_log()
    assert {'l_g_feature', 'l_g_text', 'l_feature_d', 'l_prompt'} < log.keys() and all(map(math.isfinite, log.values()))
    for name in ('g', 'feature_d', 'prompt'):
        first, last = (latest_params(tmp_path, 'tiny', name, label) for label in (1, 3))
        assert all(value.isfinite().all() for value in last.values())
        assert all(not torch.equal(value, last[key]) for key, value in first.items() if value.dim() > 1), name


def test_sfd_model_image_with_odd_sides_is_validated_whole(opt, photographs, tmp_path):
    opt = at_scale_four(opt, photographs, tmp_path, 64)
    for place, side in (('low', (23, 17)), ('high', (92, 68))):
        (tmp_path / f'odd_{place}').mkdir()
        image = cv2.imread(str(next((tmp_path / place).glob('*.png'))))
        cv2.imwrite(str(tmp_path / f'odd_{place}' / 'a.png'), cv2.resize(image, side, interpolation=cv2.INTER_AREA))
    opt['datasets']['val'] = {
        'name': 'odd',
        'type': 'PairedImageDataset',
        'dataroot_lq': str(tmp_path / 'odd_low'),
        'dataroot_gt': str(tmp_path / 'odd_high'),
    }
    metrics = {'psnr': {'type': 'calculate_psnr', 'crop_border': 4, 'test_y_channel': True}}
    opt['val'] = {'val_freq': 3, 'save_img': True, 'metrics': metrics}
    opt['train']['ema_decay'] = 0.9
    trained(opt, tmp_path)
    (saved,) = (tmp_path / 'experiments/tiny/visualization').rglob('*.png')
    assert cv2.imread(str(saved)).shape == (68, 92, 3)
    assert '# psnr: ' in log_of(tmp_path)


# ---- option files ----


@pytest.fixture
def skimage_datasets(tmp_path, monkeypatch) -> None:
    """``datasets/skimage`` in the current folder."""
    pytest.importorskip('efficientnet_lite_pytorch')
    monkeypatch.chdir(tmp_path)
    main(['prepare', 'skimage', '-o', 'datasets'])


def launch(file: str, *changes: str) -> None:
    """A training of an option file for the CPU, of two iterations."""
    short = ['train:total_iter=2', 'datasets:train:num_worker_per_gpu=0', 'logger:use_tb_logger=false']
    main(['train', '-opt', str(ROOT / 'options/sfd' / file), '--force_yml', *short, *changes])


def test_sfd_option_files_for_the_cpu_train_and_test_as_their_first_lines_have_it(skimage_datasets):
    off = ['train:sfd_opt:feature_weight=0', 'train:sfd_opt:text_weight=0']
    launch('train_cpu.yml', 'name=sfd_l1_cpu', *off)
    weights = 'experiments/sfd_l1_cpu/models/net_g_latest.pth'
    launch(
        'train_cpu.yml',
        'val:val_freq=2',
        f'path:pretrain_network_g={weights}',
        'train:optim_g:lr=1e-9',
        'train:scheduler:eta_min=0',
    )
    first, last = (latest_params(Path(), name, 'g') for name in ('sfd_l1_cpu', 'sfd_x4_cpu'))
    assert_same(first, last, atol=1e-7, rtol=0)  # it started from the first
    (log,) = Path('experiments/sfd_x4_cpu').glob('train_*.log')
    assert '# niqe: ' in log.read_text()
    main(['test', '-opt', str(ROOT / 'options/sfd/test_x4.yml')])
    net = SRVGGNetCompact(3, 3, 48, 12, upscale=4)
    net.load_state_dict(last)
    block = {'name': 'val', 'type': 'SingleImageDataset', 'dataroot_lq': 'datasets/skimage/val_x4.lmdb'}
    sample = open_dataset(complete_dataset(block, 'val', ['name']), 'val')[0]
    with torch.no_grad():
        image = (net(sample['lq'][None])[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    (written,) = Path('results/sfd_x4/visualization').rglob(f'{sample["lq_path"]}*.png')
    assert np.array_equal(cv2.imread(str(written))[..., ::-1], image)


def test_sfd_option_file_of_iqa_writes_what_sassid_iqa_reads(skimage_datasets, capsys):
    launch('train_iqa_cpu.yml')
    photograph = Path(skimage.__file__).parent / 'data/coffee.png'
    weights = 'experiments/sfd_iqa_cpu/models/sfd_latest.pth'
    main(['iqa', str(photograph), '--weights', weights, '--patch-size', '128', '-o', 'quality.csv'])
    (header, row) = Path('quality.csv').read_text().splitlines()
    assert 0 < float(row.rpartition(',')[2]) < 1
