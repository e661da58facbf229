"""AMSNet over any network of the registry, and its prior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY

from basicsr_sassid import Denoiser
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.training.validation import is_best
from basicsr_sassid.utils.errors import UserError

from helpers import ANY_NETWORK, latest_params, subsampled_options


def options(photographs, **train_keys) -> dict:
    return subsampled_options(photographs, 'AMSNetModel', **train_keys)


@pytest.mark.parametrize(
    'block',
    [
        ANY_NETWORK,
        {'type': 'RIDNet', 'in_channels': 3, 'mid_channels': 16, 'out_channels': 3, 'num_block': 1, 'img_range': 1},
        {'type': 'SwinIR', 'img_size': 8, 'window_size': 2, 'embed_dim': 6, 'depths': [2], 'num_heads': [2]},
        {'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_conv': 1, 'upscale': 1},
    ],
    ids=lambda block: block['type'],
)
@pytest.mark.filterwarnings('ignore:torch.meshgrid')  # of SwinIR
def test_amsnet_trains_any_network_whose_file_gives_its_inference(photographs, tmp_path, block):
    opt = options(photographs)
    opt['network_bsn'] = block
    if block['type'] == 'SwinIR':
        opt['inference'] = {'multiple_of': block['window_size']}
    train(resolve_options(opt, tmp_path, True), on_iteration=lambda *_: None)
    weights = tmp_path / 'experiments/AMSNetModel/models/net_bsn_latest.pth'
    denoise = Denoiser(weights, 'cpu', precision='fp32', network=block)
    image = np.random.default_rng(0).random((21, 14, 3)).astype(np.float32)
    assert denoise(image).shape == image.shape and denoise.inference.num_masks == 2


class Halving(torch.nn.Module):
    """Like Restormer and NAFNet: works at half the size too, and needs sides that can be halved twice."""

    def __init__(self):
        super().__init__()
        self.down, self.up = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ConvTranspose2d(8, 3, 4, stride=4)

    def forward(self, x):
        return x + self.up(self.down(x))


@pytest.fixture
def halving(photographs) -> dict:
    if 'Halving' not in ARCH_REGISTRY:
        ARCH_REGISTRY.register(Halving)
    opt = options(photographs)
    opt['network_bsn'] = {'type': 'Halving'}
    return opt


def test_amsnet_patch_that_the_network_refuses_is_named(halving, tmp_path):
    with pytest.raises(UserError, match=r'Halving does not take images of 6x6 pixels \(datasets.train.patch'):
        resolve_options(halving, tmp_path, True)


def test_amsnet_network_that_needs_multiples_is_named(halving, tmp_path):
    halving['datasets']['train']['patch_size'] = 40
    with pytest.raises(UserError, match='9x9 pixels .photographs have any size: set inference.multiple_of'):
        resolve_options(halving, tmp_path, True)


def test_amsnet_network_with_multiple_of_denoises_any_size(halving, tmp_path):
    halving['datasets']['train']['patch_size'] = 40
    halving['inference'] = {'multiple_of': 4}
    train(resolve_options(halving, tmp_path, True), on_iteration=lambda *_: None)
    weights = tmp_path / 'experiments/AMSNetModel/models/net_bsn_latest.pth'
    denoise = Denoiser(weights, 'cpu', network=halving['network_bsn'])
    assert denoise(np.zeros((13, 22, 3), np.uint8)).shape == (13, 22, 3)


def test_amsnet_network_that_pads_its_sub_images_is_warned_of(photographs, tmp_path):
    opt = options(photographs)
    opt['network_bsn'] = {'type': 'DenoisingUNet', 'dim': 4}
    with pytest.warns(UserWarning, match='DenoisingUNet pads the sub-images of 6 pixels to a multiple of 32.*of 160'):
        resolve_options(opt, tmp_path, True)


def test_amsnet_super_resolution_network_is_refused(photographs, tmp_path):
    opt = options(photographs)
    opt['network_bsn'] = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 1, 'upscale': 2}
    with pytest.raises(UserError, match='SRVGGNetCompact makes .*12, 12.*upscale: 1'):
        resolve_options(opt, tmp_path, True)


# ---- the prior: AMSNet-P ----


def prior_options(photographs, **prior) -> dict:
    opt = options(photographs, prior=prior or None)
    opt['train']['stages']['prior'] = opt['train']['stages']['bsn']
    return opt


def test_prior_stage_adds_total_variation_of_the_whole_image(photographs, tmp_path, monkeypatch):
    model = build_model(resolve_options(prior_options(photographs, loss_weight=0.5), tmp_path, True))
    model.update_learning_rate(7)
    assert model.stage.name == 'prior' and model.stage.network == 'bsn'
    lq = torch.rand(2, 3, 30, 30)
    monkeypatch.setattr('basicsr_sassid.models.amsnet_model.masked_inference', lambda net, x, num_masks: 2 * x)
    variation = (lq.diff(dim=2).abs().mean() + lq.diff(dim=3).abs().mean()) * 2
    assert model.training_loss(lq).item() == pytest.approx((lq.mean() + 0.5 * variation).item(), rel=1e-5)


@pytest.fixture
def prior_run(photographs, tmp_path):
    opt = prior_options(photographs)
    opt['train']['stages'] = {name: {**block, 'iter': 3} for name, block in opt['train']['stages'].items()}
    train(resolve_options(opt, tmp_path / 'whole', True), on_iteration=lambda *_: None)
    return opt, tmp_path


def test_prior_stage_resumed_equals_the_uninterrupted_one(prior_run):
    opt, folder = prior_run
    train(resolve_options(opt, folder / 'stopped', True), on_iteration=lambda model, number: number == 5)
    train(resolve_options(opt, folder / 'stopped', True, auto_resume=True), on_iteration=lambda *_: None)
    one, other = (latest_params(folder / run, 'AMSNetModel', 'bsn') for run in ('whole', 'stopped'))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_prior_stage_trains_the_network_of_the_stage_before(prior_run):
    folder = prior_run[1] / 'whole'
    after = latest_params(folder, 'AMSNetModel', 'bsn')
    before = latest_params(folder, 'AMSNetModel', 'bsn', label='3')
    assert any(not torch.equal(after[key], before[key]) for key in after)


@pytest.mark.parametrize(
    ('prior', 'message'),
    [
        ({'type': 'L1Loss'}, 'train.prior: expected a loss of one image'),
        (5, 'train.prior: expected a block of keys'),
        ({'reduction': 'none'}, 'train.prior: expected a loss'),
        ({'weight': 1}, "train.prior: unknown key 'weight'"),
    ],
)
def test_prior_wrong_is_named(photographs, tmp_path, prior, message):
    opt = prior_options(photographs)
    opt['train']['prior'] = prior
    with pytest.raises(UserError, match=message):
        resolve_options(opt, tmp_path, True)


def test_prior_without_its_stage_is_named(photographs, tmp_path):
    with pytest.raises(UserError, match='train.prior: it belongs to the stage prior'):
        resolve_options(options(photographs, prior={'loss_weight': 1.0}), tmp_path, True)


@pytest.mark.parametrize(
    ('records', 'iteration', 'expected'),
    [
        ([{'better': 'higher', 'val': 30.0, 'iter': 3}, None], 3, True),
        ([{'better': 'higher', 'val': 30.0, 'iter': 3}, {'better': 'higher', 'val': 29.0, 'iter': 8}], 8, False),
        ([{'better': 'higher', 'val': 30.0, 'iter': 3}, {'better': 'higher', 'val': 31.0, 'iter': 9}], 9, True),
        ([{'better': 'lower', 'val': 30.0, 'iter': 3}, {'better': 'lower', 'val': 29.0, 'iter': 8}], 8, True),
    ],
)
def test_is_best_compares_all_stages_of_a_network(records, iteration, expected):
    assert is_best(records, iteration) == expected
