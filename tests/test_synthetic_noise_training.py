"""SyntheticNoiseDataset: its options, and trainings of stock models on it."""

from __future__ import annotations

import copy
import re

import cv2
import numpy as np
import pytest
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from basicsr_sassid.training.datasets import complete_dataset, resolve_dataset
from basicsr_sassid.training.loop import test as run_test
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import error_of, trained, with_value
from synthetic_scenes import CAMERA, synthetic_dataset, synthetic_options

# ---- errors ----

RANGE = r'or \[low, high\] of such numbers with low <= high'


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'patch_size': 65}, r'^datasets.train.patch_size: 65 is larger than .*0.png \(64x80 pixels'),
        ({'patch_size': None}, '^datasets.train.patch_size: expected a number of pixels >= 1, got None'),
        ({'dataroot_gt': None}, "^datasets.train: key 'dataroot_gt' is missing"),
        ({'dataroot_lq': 'x'}, "^datasets.train: unknown key 'dataroot_lq'. Did you mean 'dataroot_gt'"),
        ({'sigma': 25}, "^datasets.train: unknown key 'sigma'"),
        ({'seed': -1}, '^datasets.train.seed: expected a number >= 0, got -1'),
        ({'seed': 1.5}, '^datasets.train.seed: expected a whole number, got 1.5'),
        ({'noise_map': 1}, '^datasets.train.noise_map: expected true or false, got 1'),
        (
            {'noise_map': True, 'noise': CAMERA},
            '^datasets.train.noise_map: expected false with noise.type: camera, .* got true$',
        ),
        ({'noise': 25}, '^datasets.train.noise: expected a block of keys, got 25'),
        ({'noise': {'type': 'poisson'}}, "^datasets.train.noise.type: expected one of awgn, camera, got 'poisson'"),
        ({'noise': {'sigmas': 25}}, "^datasets.train.noise: unknown key 'sigmas'. Did you mean 'sigma'"),
        ({'noise': {'sigma': 256}}, f'^datasets.train.noise.sigma: expected a number from 0 to 255, {RANGE}, got 256'),
        ({'noise': {'sigma': -1}}, '^datasets.train.noise.sigma: expected a number .* got -1'),
        ({'noise': {'sigma': True}}, '^datasets.train.noise.sigma: expected a number .* got True'),
        ({'noise': {'sigma': None}}, '^datasets.train.noise.sigma: expected a number .* got None'),
        ({'noise': {'sigma': float('nan')}}, '^datasets.train.noise.sigma: expected a number .* got nan'),
        ({'noise': {'sigma': [50, 10]}}, rf'^datasets.train.noise.sigma: .* {RANGE}, got \[50, 10\]'),
        ({'noise': {'sigma': [10]}}, r'^datasets.train.noise.sigma: expected a number .* got \[10\]'),
        ({'noise': {'sigma': [0, 'x']}}, r"^datasets.train.noise.sigma: expected a number .* got \[0, 'x'\]"),
        (
            {'noise': {'type': 'camera', 'photons': [0, 9]}},
            '^datasets.train.noise.photons: expected a number from 1 to 1000000',
        ),
        (
            {'noise': {'type': 'camera', 'read_noise': -1}},
            '^datasets.train.noise.read_noise: expected a number >= 0, got -1',
        ),
        (
            {'noise': {'type': 'camera', 'jpeg_quality': 101}},
            '^datasets.train.noise.jpeg_quality: expected a number <= 100, got 101',
        ),
        (
            {'noise': {'type': 'camera', 'sigma': 25}},
            '^datasets.train.noise: sigma is a key of type: awgn, got type: camera. Leave sigma out',
        ),
        (
            {'noise': {'photons': 150}},
            '^datasets.train.noise: photons is a key of type: camera, got type: awgn. Leave photons out',
        ),
        (
            {'noise': {'jpeg_quality': None}},
            '^datasets.train.noise: jpeg_quality is a key of type: camera, got type: awgn',
        ),
        (
            {'phase': 'val', 'noise': {'sigma': [10, 50]}},
            r'^datasets.val.noise.sigma: expected one number in phase val, .* got \[10, 50\]$',
        ),
        (
            {'phase': 'test'},
            r'^datasets.test.noise.sigma: expected one number in phase test, .* got \[0, 75\], the default$',
        ),
        (
            {'phase': 'val', 'noise': {'type': 'camera', 'photons': [10, 50]}},
            r'^datasets.val.noise.photons: expected one number in phase val, .* got \[10, 50\]$',
        ),
        (
            {'noise': CAMERA, 'patch_size': 1},
            '^datasets.train.noise.type: camera needs 2x2 pixels or more, got 1x1 .* Choose a larger patch_size',
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else '',
)
def test_bad_option_raises_user_error(photographs, options, message):
    with pytest.raises(UserError, match=message) as error:
        synthetic_dataset(photographs, **options)
    assert '\n' not in str(error.value)


def test_empty_folder_raises_user_error_that_names_the_key(tmp_path):
    with pytest.raises(UserError, match=f'^dataroot_gt: no image in {tmp_path}'):
        synthetic_dataset(tmp_path)


# ---- the training loop ----


def test_complete_dataset_of_clean_images_alone_is_accepted(photographs):
    block = {'name': 'x', 'type': 'RealESRGANDataset', 'dataroot_gt': str(photographs)}
    assert resolve_dataset('train', block, 1, True)['io_backend'] == {'type': 'disk'}


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        (
            {'type': 'FFHQDataset'},
            r'^datasets.train: expected dataroot_lq \(noisy images\) or dataroot_gt \(clean images\), found neither\.$',
        ),
        ({'type': 'SyntheticNoiseDataset'}, "^datasets.train: key 'dataroot_gt' is missing"),
        ({'type': 'NoisyImageDataset', 'dataroot_gt': '.'}, "^datasets.train: key 'dataroot_lq' is missing"),
        ({'type': 'PairedImageDataset', 'dataroot_gt': '.'}, "^datasets.train: key 'dataroot_lq' is missing"),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_complete_dataset_without_images_raises_user_error(block, message):
    with pytest.raises(UserError, match=message):
        complete_dataset({'name': 'x', **block}, 'datasets.train', ['name', 'type'])


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('datasets.train.noise.sigma', 'x', '^datasets.train.noise.sigma: expected a number from 0 to 255'),
        ('datasets.val.noise.sigma', [0, 75], '^datasets.val.noise.sigma: expected one number in phase val'),
        ('datasets.train.nois', {}, "^datasets.train: unknown key 'nois'. Did you mean 'noise'"),
    ],
)
def test_train_bad_noise_is_refused_before_anything_is_written(noisy_folder, tmp_path, key, value, message):
    assert re.search(message, error_of(with_value(synthetic_options(noisy_folder), key, value), tmp_path) or '')


def test_stock_model_trained_on_synthetic_noise_denoises_a_test_set(photographs, tmp_path, monkeypatch):
    """Stock SRModel and EDSR, validation at any image size, then a test run of the network."""
    cv2.imwrite(str(photographs / 'odd.png'), np.full((37, 51, 3), 90, np.uint8))
    opt = synthetic_options(photographs)
    opt['datasets']['train']['patch_size'] = 24
    opt['train']['total_iter'] = opt['val']['val_freq'] = 40
    metrics = {}

    def collect(model, iteration, *_):
        metrics[iteration] = copy.copy(model.metric_results)

    monkeypatch.setattr('basicsr.models.sr_model.SRModel._log_validation_metric_values', collect)
    trained(copy.deepcopy(opt), tmp_path)
    weights = tmp_path / 'experiments/stock/models/net_g_latest.pth'
    for name, path in (('untrained', {}), ('tested', {'pretrain_network_g': str(weights)})):
        test = {key: opt[key] for key in ('model_type', 'num_gpu', 'network_g', 'manual_seed')}
        test.update(name=name, path=path, datasets={'test': opt['datasets']['val']})
        test['val'] = {'save_img': True, 'metrics': opt['val']['metrics']}
        run_test(resolve_options(test, tmp_path, False))
    assert len(list((tmp_path / 'results/tested/visualization/val').glob('*_tested.png'))) == 7
    # the same noise on the same images
    assert metrics['tested']['psnr'] == pytest.approx(metrics[40]['psnr'], abs=1e-6)
    assert metrics['tested']['psnr'] > metrics['untrained']['psnr'] + 1


class MapNetwork(nn.Module):
    """Three channels of four: an image and its noise-level map."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x)


def test_stock_model_with_a_noise_map_trains(photographs, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'MapNetwork', MapNetwork)
    opt = synthetic_options(photographs)
    opt['network_g'] = {'type': 'MapNetwork'}
    for block in opt['datasets'].values():
        block['noise_map'] = True
    model = trained(opt, tmp_path)
    assert model.metric_results['psnr'] > 0
