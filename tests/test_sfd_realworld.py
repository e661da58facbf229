"""RealWorldSFDModel: degradations, the pool of pairs, resume, options."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from basicsr.models import build_model
from basicsr.utils import USMSharp

from basicsr_sassid.training.datasets import open_dataset
from basicsr_sassid.training.degradation_schema import DegradationOptions
from basicsr_sassid.training.options import read_options, resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import ROOT, assert_same, error_of, latest_params, log_of, paired_dataset, trained, with_value

DEGRADATIONS = 'train.degradation_opt'


@pytest.fixture
def opt(realworld_options) -> dict:
    return realworld_options


def built(opt: dict, folder):
    """The model, and batches of two crops."""
    opt = resolve_options(opt, folder, True)
    torch.manual_seed(0)
    np.random.seed(0)
    dataset = open_dataset(opt['datasets']['train'], 'datasets.train')
    batch = torch.utils.data.default_collate([dataset[0], dataset[1]])
    return build_model(opt), batch


def test_realworld_sfd_model_degrades_crops_to_eight_bits(opt, tmp_path):
    model, batch = built(opt, tmp_path)
    model.feed_data(batch)
    assert model.gt.shape == (2, 3, 64, 64) and model.lq.shape == (2, 3, 32, 32)
    levels = model.lq * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4) and model.lq.min() >= 0 and model.lq.max() <= 1
    reduced = torch.nn.functional.avg_pool2d(model.gt, 2)
    error = float((model.lq - reduced).square().mean().sqrt())
    assert 0.01 < error < float((reduced - reduced.mean()).square().mean().sqrt()) * 2  # degraded, the same place
    model.optimize_parameters(1)
    assert {'l_g_pix', 'l_g_feature', 'l_g_text', 'l_feature_d', 'l_prompt'} < model.get_current_log().keys()


def test_realworld_sfd_model_without_degradations_only_reduces(opt, tmp_path):
    """The blurs' kernels are replaced by pulses, noise and JPEG by their weakest: what is left is the reduction."""
    opt['train']['degradation_opt'].update(
        resize_prob=[0, 0, 1], resize_prob2=[0, 0, 1], gaussian_noise_prob=1, gaussian_noise_prob2=1,
        noise_range=[0.01, 0.01], noise_range2=[0.01, 0.01], jpeg_range=[99, 99], jpeg_range2=[99, 99],
    )  # fmt: skip
    model, batch = built(opt, tmp_path)
    pulse = torch.zeros(2, 21, 21)
    pulse[:, 10, 10] = 1
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8), size=400, mode='bilinear')
    model.feed_data({**batch, 'gt': smooth, 'kernel1': pulse, 'kernel2': pulse, 'sinc_kernel': pulse})
    errors = [
        float((model.lq - torch.nn.functional.interpolate(model.gt, scale_factor=0.5, mode=mode)).abs().mean())
        for mode in ('area', 'bilinear', 'bicubic')  # drawn at random
    ]
    assert min(errors) < 0.01


def test_realworld_sfd_model_pool_mixes_batches_once_it_is_full(opt, tmp_path):
    model, batch = built(opt, tmp_path)
    for _ in range(2):  # they fill it
        model.feed_data(batch)
    pool = model.queue_gt.clone()
    assert model.queue_ptr == 4
    model.feed_data(batch)
    for image in model.gt:  # of the pool, not of the new batch
        assert any(torch.equal(image, old) for old in pool)
    assert sum(any(torch.equal(new, old) for old in pool) for new in model.queue_gt) == 2


@pytest.mark.parametrize('loss', ['l1', 'percep', 'gan'])
def test_realworld_sfd_model_sharpens_the_references_of_a_loss(opt, tmp_path, loss):
    names = ('l1', 'percep', 'gan')
    opt['train']['degradation_opt'].update({f'{name}_gt_usm': name == loss for name in names})
    model, batch = built(opt, tmp_path)
    model.feed_data(batch)
    for name in names:
        expected = USMSharp()(model.gt) if name == loss else model.gt
        assert torch.equal(model.reference(name), expected)


def test_realworld_sfd_model_sharpens_nothing_where_no_loss_does(opt, tmp_path):
    model, batch = built(opt, tmp_path)
    model.feed_data(batch)
    assert model.gt_usm is model.gt


def test_realworld_sfd_model_resumed_equals_the_uninterrupted_run(opt, tmp_path):
    trained(opt, tmp_path)
    names = ('g', 'feature_d', 'prompt')
    whole = {name: latest_params(tmp_path, 'tiny', name) for name in names}
    states = tmp_path / 'experiments/tiny/training_states'
    assert sorted(path.name for path in states.glob('*_pool_0.pth')) == ['4_pool_0.pth', '6_pool_0.pth']
    for path in (states / '6.state', states / '6_pool_0.pth', *(states.parent / 'models').glob('*_6.pth')):
        path.unlink()
    trained(opt, tmp_path, auto_resume=True)
    for name, params in whole.items():
        assert_same(params, latest_params(tmp_path, 'tiny', name))


@pytest.mark.parametrize('damage', ['missing', 'cut off', 'another pool'])
def test_realworld_sfd_model_without_its_pool_starts_an_empty_one(opt, tmp_path, damage):
    opt['train']['total_iter'] = 4
    trained(opt, tmp_path)
    path = tmp_path / 'experiments/tiny/training_states/4_pool_0.pth'
    if damage == 'missing':
        path.unlink()
    elif damage == 'cut off':
        path.write_bytes(path.read_bytes()[:1000])
    else:
        opt['train']['degradation_opt']['queue_size'] = 2
    opt['train']['total_iter'] = 5
    model = trained(opt, tmp_path, auto_resume=True)
    reason = 'it was saved with another gt_size' if damage == 'another pool' else 'missing or damaged'
    assert f'4_pool_0.pth: the pool of training pairs starts empty ({reason}' in log_of(tmp_path)
    assert model.queue_ptr == 2


def test_realworld_sfd_model_validates_on_pairs_as_they_are(opt, photographs, tmp_path):
    opt['train']['total_iter'] = 2
    pairs = paired_dataset(tmp_path / 'small', photographs, gt_size=64, batch=1)
    opt['datasets']['val'] = {key: pairs[key] for key in ('type', 'dataroot_lq', 'dataroot_gt')} | {'name': 'pairs'}
    opt['val'] = {'val_freq': 2, 'save_img': True, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}}
    model = trained(opt, tmp_path)
    assert '# psnr: ' in log_of(tmp_path) and model.is_train
    (saved, *_) = sorted((tmp_path / 'experiments/tiny/visualization').rglob('*.png'))
    image = cv2.imread(str(next((tmp_path / 'small').glob(f'{saved.parent.name}.png'))))[..., ::-1]
    with torch.no_grad():
        output = model.net_g(torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255)[0]
    expected = (output.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(cv2.imread(str(saved))[..., ::-1], expected)


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        (f'{DEGRADATIONS}.gt_size', 63, f'{DEGRADATIONS}.gt_size: expected a multiple of scale (2), got 63'),
        (f'{DEGRADATIONS}.gt_size', 402, f'{DEGRADATIONS}.gt_size: expected a number <= 400, got 402'),
        (f'{DEGRADATIONS}.queue_size', 5, f'{DEGRADATIONS}.queue_size: expected a multiple of batch_size_per_gpu (2)'),
        (f'{DEGRADATIONS}.noise_range', [9, 1], f'{DEGRADATIONS}.noise_range: expected the smaller number first'),
        (f'{DEGRADATIONS}.noise_range', [1], f'{DEGRADATIONS}.noise_range: '),
        (f'{DEGRADATIONS}.noise_range', 3, f'{DEGRADATIONS}.noise_range: expected a list, got 3'),
        (f'{DEGRADATIONS}.jpeg_range', [50, 100], f'{DEGRADATIONS}.jpeg_range.1: expected a number <= 99, got 100'),
        (
            f'{DEGRADATIONS}.resize_range',
            [0.01, 2],
            f'{DEGRADATIONS}.resize_range.0: expected a number >= 0.05, got 0.01',
        ),
        (
            f'{DEGRADATIONS}.resize_range2',
            [2, 4],
            f'{DEGRADATIONS}.resize_range2: expected a number up to 1 and one from',
        ),
        ('scale', 3, 'scale: RealESRGANDataset gives crops of 400 pixels, expected a divisor, got 3'),
        (f'{DEGRADATIONS}.resize_prob', [0, 0, 0], 'resize_prob: expected a probability above 0 among the three'),
        (f'{DEGRADATIONS}.gray_noise_prob', 1.5, f'{DEGRADATIONS}.gray_noise_prob: expected a number <= 1, got 1.5'),
        (f'{DEGRADATIONS}.l1_usm', True, f"{DEGRADATIONS}: unknown key 'l1_usm'"),
    ],
)
def test_realworld_sfd_model_bad_option_raises_user_error(opt, tmp_path, key, value, message):
    assert message in (error_of(with_value(opt, key, value), tmp_path) or 'no error')


def test_realworld_sfd_model_crops_that_do_not_fit_the_image_discriminator_raise_user_error(opt, tmp_path):
    opt['network_d'] = {'type': 'UNetDiscriminatorSN_basicsr', 'num_in_ch': 3, 'num_feat': 4}
    opt['train'].update(gan_opt={'type': 'GANLoss', 'gan_type': 'vanilla'}, optim_d={'type': 'Adam', 'lr': 1e-3})
    opt['train']['degradation_opt']['gt_size'] = 60
    message = error_of(opt, tmp_path)
    assert message and message.startswith(f'{DEGRADATIONS}.gt_size: UNet') and message.endswith('of 8, got 60')


def test_realworld_sfd_model_pool_of_another_batch_is_refused(opt, tmp_path):
    model, batch = built(opt, tmp_path)
    model.feed_data(batch)
    state = model.process_state()
    model.load_process_state(state)
    assert model.queue_ptr == 2
    with pytest.raises(ValueError, match='batch_size_per_gpu'):
        model.load_process_state({name: images[:1] for name, images in state.items()})


def test_realworld_sfd_model_resumed_from_an_older_state_keeps_the_files_of_later_ones(opt, tmp_path):
    opt['train']['total_iter'] = 4
    trained(opt, tmp_path)
    states = tmp_path / 'experiments/tiny/training_states'
    (states / '90_pool_0.pth').write_bytes(b'of another run')
    opt['train']['total_iter'] = 8
    trained(opt, tmp_path, auto_resume=True)
    names = sorted(path.name for path in states.glob('*_pool_0.pth'))
    assert names == ['6_pool_0.pth', '8_pool_0.pth', '90_pool_0.pth']


def test_realworld_sfd_model_on_pairs_names_the_dataset_it_needs(opt, photographs, tmp_path):
    opt['datasets']['train'] = paired_dataset(tmp_path / 'small', photographs, gt_size=64, batch=2)
    with pytest.raises(UserError, match='datasets.train.type: RealWorldSFDModel needs RealESRGANDataset'):
        trained(opt, tmp_path)


def test_degradation_options_are_those_of_the_option_file():
    block = read_options(ROOT / 'options/sfd/train_rrdb_x4_realworld.yml')['train']['degradation_opt']
    assert DegradationOptions.parse(block, DEGRADATIONS) == DegradationOptions()
