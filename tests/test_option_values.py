"""Every key of the option blocks with values outside of its range: one sentence, and nothing on disk has changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from basicsr_sassid.data.schema import NoisyImageOptions
from basicsr_sassid.data.synthetic_schema import NoiseOptions, SyntheticNoiseOptions
from basicsr_sassid.models.three_stage_model import ThreeStageModel
from basicsr_sassid.training import schema
from basicsr_sassid.training.loop import test as run_test
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.runtime import silence
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.schema import OptionBlock

from helpers import (
    ANYTHING,
    BLOCK,
    HUGE,
    LIST,
    NAN,
    TEXT,
    ZERO,
    error_of,
    latest_params,
    subsampled_options,
    tiny_options,
    trained,
    tree,
    with_validation,
    with_value,
)
from synthetic_scenes import synthetic_options

# values of ANYTHING that a key takes
TAKES: dict[str, tuple[Any, ...]] = {
    'name': (TEXT,),
    'manual_seed': (ZERO, None),
    'img_range': (1.5,),
    'num_gpu': (ZERO,),
    'find_unused_parameters': (True,),
    'dist_params': (None,),
    'train.total_iter': (None,),
    'train.ema_decay': (ZERO,),
    'train.grad_clip': (1.5, None),
    'train.compile': (True,),
    'train.teacher_ensemble': (True,),
    'train.posterior': (True,),
    'train.texture': (None,),
    'train.texture.lower': (ZERO, 1.5),
    'train.texture.upper': (1.5,),
    'train.stages.bnn.loss': (None,),
    'train.stages.bnn.optim.lr': (1.5,),
    'logger.use_tb_logger': (True,),
    'logger.wandb': (None,),
    'val': (None,),
    'val.save_img': (True,),
    'val.metrics': (None,),
    'val.suffix': (TEXT, None),
    'datasets.train.name': (TEXT,),
    'datasets.train.io_backend': (None,),
    'datasets.train.use_hflip': (True, None),
    'datasets.train.use_rot': (True, None),
    'datasets.train.hold_out': (ZERO, None),
    'datasets.train.num_worker_per_gpu': (ZERO,),
    'datasets.train.phase': ANYTHING,  # the training sets it
    'datasets.train.scale': ANYTHING,
    'datasets.train.noise': (None,),
    'datasets.train.noise_map': (True, None),  # of an image of four channels the network is refused
    'datasets.train.seed': (ZERO, None),
    'datasets.train.noise.sigma': (ZERO, 1.5),
    'datasets.train.noise.photons': (1.5,),
    'datasets.train.noise.read_noise': (ZERO, 1.5),
    'datasets.train.noise.jpeg_quality': (None,),
}


def keys_of(block: type[OptionBlock], prefix: str = '') -> list[str]:
    return [f'{prefix}.{key}'.strip('.') for key in block.model_fields]


KEYS = [
    *keys_of(schema.RunOptions),
    *keys_of(schema.ThreeStageTrainOptions, 'train'),
    *keys_of(schema.TextureOptions, 'train.texture'),
    *keys_of(schema.StageOptions, 'train.stages.bnn'),
    'train.stages.bnn.optim.lr',
    'val',
    *keys_of(schema.ValOptions, 'val'),
    *keys_of(schema.LoggerOptions, 'logger'),
    *keys_of(NoisyImageOptions, 'datasets.train'),
]
SYNTHETIC_KEYS = [*keys_of(SyntheticNoiseOptions, 'datasets.train'), *keys_of(NoiseOptions, 'datasets.train.noise')]


@pytest.fixture
def run(noisy_folder, tmp_path) -> Path:
    """Folder with an earlier run of the same name."""
    (tmp_path / 'experiments' / 'tiny').mkdir(parents=True)
    (tmp_path / 'experiments' / 'tiny' / 'precious.txt').write_text('days of work')
    return tmp_path


def is_taken(key: str, value: object) -> bool:
    return any(value is taken or (type(value) is type(taken) and value == taken) for taken in TAKES.get(key, ()))


@pytest.mark.parametrize('key', KEYS)
def test_option_value_outside_of_its_range_is_one_sentence(noisy_folder, run, key):
    refuses_what_it_does_not_take(with_validation(tiny_options(noisy_folder), noisy_folder), key, run)


@pytest.mark.parametrize('key', SYNTHETIC_KEYS)
def test_synthetic_noise_option_value_outside_of_its_range_is_one_sentence(noisy_folder, run, key):
    opt = synthetic_options(noisy_folder)
    if '.noise.' in key and not key.endswith('sigma'):
        opt['datasets']['train']['noise'] = {'type': 'camera'}
    refuses_what_it_does_not_take(opt, key, run)


def refuses_what_it_does_not_take(opt: dict[str, Any], key: str, run: Path) -> None:
    for value in ANYTHING:
        if is_taken(key, value):
            continue
        message = error_of(with_value(opt, key, value), run)
        assert message is not None, f'{key}: {value!r} was accepted'
        assert '\n' not in message and key.split('.')[-1].split('_')[0] in message, f'{key}: {value!r}: {message}'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'train.ema_decay': 2}, '^train.ema_decay: expected a number < 1, got 2'),
        ({'train.grad_clip': -1}, '^train.grad_clip: expected a number > 0, got -1'),
        ({'train.texture': {'lower': 9, 'upper': 5}}, '^train.texture: expected lower <= upper, got lower 9 and upper'),
        ({'train.texture': {'window': 4}}, '^train.texture.window: expected an odd number >= 1, got 4'),
        ({'train.texture': {'window': 99}}, r'^train.stages.lan.*|window 99: expected an image of more than 49'),
        ({'train.stages.lan.loss': {'window': 4, 'region': 'flat'}}, '^train.stages.lan.loss: window: expected an odd'),
        ({'train.stages.lan.loss': {'loss_weight': -1}}, '^train.stages.lan.loss.loss_weight: expected a number > 0'),
        ({'train.stages.unet.loss': {'type': 'L1Loss'}}, r'^train.stages.unet(.loss: unknown key| \(network_g\): Thr)'),
        ({'train.stages.unet.scheduler': {'type': 'OneCycleLR', 'max_lr': -1}}, r'scheduler.max_lr: .* > 0, got -1'),
        ({'train.stages.unet.scheduler': {'type': 'OneCycleLR', 'max_lr': 1, 'div_factor': -9}}, 'learning rate becom'),
        ({'train.stages.unet.scheduler': {'type': 'StepLR', 'step_size': 0}}, '^train.stages.unet.scheduler: step 0'),
        ({'train.stages.unet.scheduler': {'type': 'ExponentialLR', 'gamma': NAN}}, 'gamma: expected a finite number'),
        ({'train.stages.unet.optim.lr': 0}, '^train.stages.unet.optim.lr: expected a number > 0, got 0'),
        ({'train.stages.unet.optim.betas': [0.9, 1]}, r'optim.betas\[1\]: expected a number >= 0 and < 1, got 1'),
        ({'train.stages.unet.optim.betas': 'abc'}, "optim.betas: expected a list of numbers .*got 'abc'"),
        ({'train.stages.unet.optim.weight_decay': -1}, 'optim.weight_decay: expected a number >= 0, got -1'),
        ({'train.stages.unet.optim': {'type': 'SGD', 'lr': 1, 'momentum': 2}}, 'momentum: expected .* < 1, got 2'),
        ({'network_bnn.blind_size': 1001}, '^network_bnn.blind_size: expected less than twice .*patch_size 32, got'),
        ({'network_bnn.dim': 0}, 'network_bnn'),
        ({'network_bnn.dim': 10**6}, '^network_bnn: expected a network of 1 to 1,000,000,000 parameters'),
        ({'datasets.train.patch_size': 1}, 'patch'),
        ({'datasets.train.num_worker_per_gpu': 10**6}, 'num_worker_per_gpu: expected a number <= 128'),
        ({'val.metrics': {'psnr': {'type': 'calculate_psnrr'}}}, '^val.metrics.psnr.type: nothing is registered as'),
        ({'val.metrics': {'psnr': {'type': 'calculate_psnr'}}}, "^val.metrics.psnr: .*'crop_border'"),
        (
            {'val.metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'test_y_chanel': True}}},
            "unknown key 'test_y_chanel'. Did you mean 'test_y_channel'",
        ),
        ({'val.metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': -4}}}, '^val.metrics.psnr: .* nan'),
        (
            {'val.metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0, 'better': 'more'}}},
            '^val.metrics.psnr.better: expected one of higher, lower',
        ),
        ({'datasets.val.dataroot_gt': None}, '^datasets.val.dataroot_gt: expected a text'),
        ({'datasets.val.io_backend': 5}, '^datasets.val.io_backend: expected a block of keys, got 5'),
        ({'path.pretrain_network_g': 5}, '^path.pretrain_network_g: expected a text, got 5'),
        ({'path.strict_load_g': TEXT}, "^path.strict_load_g: expected true or false, got 'abc'"),
        ({'dist_params.port': 10**6}, '^dist_params.port: expected a number <= 65535, got 1000000'),
        ({'logger.wandb': {'project': 'x'}}, '^logger.wandb: (wandb is not installed|it needs use_tb_logger)'),
        ({'datasets.5': {'name': 'x'}}, '^datasets.5: expected train, val'),
    ],
    ids=lambda value: str(next(iter(value.items()))) if isinstance(value, dict) else '',
)
def test_train_unusable_option_is_refused_before_anything_is_moved(noisy_folder, run, changes, message):
    opt = with_validation(tiny_options(noisy_folder), noisy_folder)
    for key, value in changes.items():
        opt = with_value(opt, key, value)
    with pytest.raises(UserError, match=message):
        raise UserError(error_of(opt, run) or 'accepted')


BAD_NAMES = ['../victim', '.', '..', '', '/tmp/x', 'a/b', 'a\\b', 'a\nb', 'a\x1b[2Jb', ' a', 'x' * 300]


@pytest.mark.parametrize('name', BAD_NAMES)
@pytest.mark.parametrize('key', ['name', 'datasets.train.name', 'datasets.val.name', 'val.suffix'])
def test_name_that_is_no_single_path_component_is_refused(noisy_folder, run, key, name):
    opt = with_value(with_validation(tiny_options(noisy_folder), noisy_folder), key, name)
    message = error_of(opt, run)
    assert message is not None and message.startswith(key) and 'name' in message


def test_key_that_is_no_text_is_refused(noisy_folder, run):
    for opt in ({**tiny_options(noisy_folder), 5: 1}, with_value(tiny_options(noisy_folder), 'train', {5: 1, 'a': 2})):
        assert 'expected a text as the key' in (error_of(opt, run) or '')


def test_block_inside_itself_is_refused(noisy_folder, run):
    opt = tiny_options(noisy_folder)
    opt['train']['texture'] = opt['train']
    assert 'blocks inside each other' in (error_of(opt, run) or '')


@pytest.mark.parametrize(
    ('key', 'values'),
    [
        ('train.pd_a', (0, 65, 'abc', None, 1.5)),
        ('train.num_masks', (1, 0, -3, 'abc', 10**6)),
        ('train.prior', ({'type': 'WeightedTVLoss', 'loss_weight': -1}, 5, 'abc')),
        ('inference', (5, 'abc', [], {'pd_b': 0}, {'r3_p': 2})),
        ('inference.blind_size', (2, -1, 'abc', True, 1.5, NAN, HUGE, BLOCK, LIST, [3], [0, 3], [3, [3]], [3, 129])),
    ],
)
def test_subsampled_option_outside_of_its_range_is_one_sentence(noisy_folder, run, key, values):
    opt = subsampled_options(noisy_folder, 'AMSNetModel')
    opt['train']['stages']['prior'] = copy.deepcopy(opt['train']['stages']['bsn'])
    for value in values:
        message = error_of(with_value(opt, key, value), run)
        assert message is not None and key.split('.')[-1] in message and '\n' not in message, f'{value!r}: {message}'


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('val.metrics', {'ssim': {'type': 'calculate_ssim_uniform', 'crop': 3}}),
        ('val.suffix', '../x'),
        ('name', '..'),
        ('img_range', 0),
        ('network_g.dim', 'abc'),
        ('datasets.test.dataroot_lq', 5),
        ('val', None),
        ('path.pretrain_network_g', 'nowhere.pth'),
    ],
)
def test_test_unusable_option_is_refused_before_anything_is_written(noisy_folder, run, key, value):
    opt = with_validation(tiny_options(noisy_folder), noisy_folder)
    del opt['network_bnn'], opt['network_lan'], opt['train'], opt['logger']
    opt['datasets'] = {'test': opt['datasets']['val']}
    before = tree(run)
    with pytest.raises(UserError, match=key.split('.')[0].split('_')[0]):
        run_test(resolve_options(with_value(opt, key, value), run, False))
    assert tree(run) == before


def test_dry_run_leaves_the_results_bit_equal(photographs, tmp_path, monkeypatch):
    opt = with_validation(tiny_options(photographs), photographs)
    trained(opt, tmp_path / 'with')
    monkeypatch.setattr('basicsr_sassid.training.loop.dry_run_training', lambda *_: None)
    trained(opt, tmp_path / 'without')
    for network in ('bnn', 'lan', 'g'):
        first, second = (latest_params(tmp_path / name, 'tiny', network) for name in ('with', 'without'))
        assert all(first[key].equal(second[key]) for key in first)


def test_earlier_run_is_renamed_when_all_is_well(noisy_folder, run):
    trained(tiny_options(noisy_folder), run)
    (archived,) = run.glob('experiments/tiny_archived_*')
    assert (archived / 'precious.txt').read_text() == 'days of work'


def test_resume_with_other_options_writes_nothing(photographs, tmp_path):
    trained(tiny_options(photographs), tmp_path)
    opt = with_value(tiny_options(photographs), 'network_g.dim', 8)
    silence()  # the log of the first run
    before = tree(tmp_path)
    with pytest.raises(UserError, match='^resume: the training state does not fit'):
        train(resolve_options(opt, tmp_path, True, auto_resume=True))
    assert tree(tmp_path) == before


def test_every_key_of_the_training_schema_is_tried():
    assert set(ThreeStageModel.train_schema.model_fields) <= {key.removeprefix('train.') for key in KEYS}
    assert TAKES.keys() <= {*KEYS, *SYNTHETIC_KEYS}
