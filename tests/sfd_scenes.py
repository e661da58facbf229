"""A training of SFDModel that takes milliseconds an iteration, for the tests of SFD."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch
from basicsr.models import build_model
from torchvision.models import squeezenet1_1

from basicsr_sassid.training.options import read_options, resolve_options

from helpers import ROOT, paired_dataset

PARTS = ('g', 'd', 'feature_d', 'prompt')
BACKBONE = {'backbone': 'squeezenet1_1', 'layer': 'features.5', 'final_layer': 'features.12'}


@pytest.fixture(scope='session')
def squeezenet(tmp_path_factory) -> Path:
    """Weights of the semantic network, the same for every run and process."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('semantic') / 'squeezenet.pth'
    torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture
def sfd_options(photographs, squeezenet, tmp_path) -> dict:
    """x2, milliseconds an iteration, all parts on."""
    small = tmp_path / 'small'
    small.mkdir()
    for path in sorted(photographs.glob('*.png')):
        image = cv2.imread(str(path))
        cv2.imwrite(str(small / path.name), image[::2, ::2])
    adam = {'type': 'Adam', 'lr': 1e-3}
    return {
        'name': 'tiny',
        'model_type': 'SFDModel',
        'scale': 2,
        'num_gpu': 0,
        'manual_seed': 1,
        'path': {},
        'datasets': {'train': paired_dataset(small, photographs, gt_size=64, batch=2)},
        'network_g': {'type': 'SRVGGNetCompact_basicsr', 'num_feat': 4, 'num_conv': 2, 'upscale': 2},
        'network_d': {'type': 'UNetDiscriminatorSN_basicsr', 'num_in_ch': 3, 'num_feat': 4},
        'network_feature_d': {'type': 'FeatureDiscriminator', 'num_in_ch': 128, 'num_feat': 4},
        'network_prompt': {'type': 'LearnablePromptPair', 'num_features': 512 * 9, 'logit_scale': 10},
        'train': {
            'total_iter': 8,
            **{f'optim_{name}': adam for name in PARTS},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [6]},
            'pixel_opt': {'type': 'L1Loss'},
            'gan_opt': {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.01},
            'sfd_opt': {'features': {**BACKBONE, 'weights': str(squeezenet)}},
        },
        'logger': {'print_freq': 2, 'save_checkpoint_freq': 2},
    }


@pytest.fixture
def realworld_options(sfd_options, photographs, tmp_path) -> dict:
    """x2, without an image-level discriminator; the kernels are those of the option file."""
    names = [path.name for path in sorted(photographs.glob('*.png'))]
    (tmp_path / 'meta_info.txt').write_text('\n'.join(names))
    published = read_options(ROOT / 'options/sfd/train_rrdb_x4_realworld.yml')['datasets']['train']
    files = {'dataroot_gt': str(photographs), 'meta_info': str(tmp_path / 'meta_info.txt')}
    sfd_options['datasets']['train'] = {**published, **files, 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}
    sfd_options['model_type'] = 'RealWorldSFDModel'
    block = {'gt_size': 64, 'queue_size': 4, 'l1_gt_usm': False, 'percep_gt_usm': False}  # sharpening takes seconds
    for key in ('gan_opt', 'optim_d'):
        del sfd_options['train'][key]
    del sfd_options['network_d']
    sfd_options['train'].update(total_iter=6, degradation_opt=block)
    return sfd_options


def built(opt: dict, folder: Path):
    """The model, with a batch."""
    torch.manual_seed(0)
    model = build_model(resolve_options(opt, folder, True))
    torch.manual_seed(1)
    gt = torch.rand(2, 3, 64, 64)
    model.feed_data({'lq': gt[..., ::2, ::2], 'gt': gt})
    return model
