"""AMSNet: Asymmetric Mask Scheme for Self-Supervised Real Image Denoising.

Liao et al., ECCV 2024, arXiv 2407.06514. Written from its description. Licence: Apache-2.0.
"""
from __future__ import annotations

import functools

import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from basicsr_sassid._checks import UserError, check_keys, check_number, check_registered
from basicsr_sassid.archs.subsample_util import fill_masked, random_parts, shuffle_down, shuffle_up
from basicsr_sassid.models.staged_model import Stage
from basicsr_sassid.models.sub_image_util import SubImageModel


@MODEL_REGISTRY.register()
class AMSNetModel(SubImageModel):
    """Any network of the registry learns to fill in the pixels that a mask has hidden from it, on sub-images; in use
    each of ``inference.parts`` masks hides its part of the pixels, and together they are the image. Then R3.

    Stage ``bsn`` is the paper's AMSNet-B. A stage ``prior`` after it is AMSNet-P: all parts are filled in, and beside
    their distance from the noisy image a prior of smoothness is lowered. The paper's formula of the prior could not be
    read; this is total variation of the whole image, BasicSR's ``WeightedTVLoss``, with the paper's weight. ``-E`` of
    either is ``inference.refine: replace``.

    Option keys beside SubImageModel's, in ``train``: ``parts`` (2: half of the pixels are hidden in training),
    ``prior`` (``{type: WeightedTVLoss, loss_weight: 0.01}``: a loss of one image).
    """
    stages = (SubImageModel.stages[0], Stage('prior', network='bsn', loss={'type': 'L1Loss'}), SubImageModel.stages[1])
    train_keys = (*SubImageModel.train_keys, 'parts', 'prior')
    shared_keys = ('parts',)
    passes = {'stride': 2, 'parts': 2, 'refine': 'replace'}

    @classmethod
    def check_options(cls, opt: dict) -> None:
        check_number(opt['train'].get('parts', 2), 2, 'train.parts')
        super().check_options(opt)
        if 'prior' in opt['train']['stages']:
            cls.make_prior(opt)
        elif 'prior' in opt['train']:
            raise UserError('train.prior: it is of the stage prior, which train.stages does not have')

    @staticmethod
    def make_prior(opt: dict) -> nn.Module:
        """Raises UserError."""
        block = opt['train'].get('prior') or {}
        check_keys(block, block, 'train.prior')
        if block.get('type', 'WeightedTVLoss') == 'WeightedTVLoss':
            block = {'type': 'WeightedTVLoss', 'loss_weight': 0.01, **block}
        check_registered(LOSS_REGISTRY, block, 'train.prior')
        try:
            prior = build_loss(block)
            prior(torch.zeros(1, 3, 8, 8)).item()
        except Exception as error:  # a loss of anybody's
            raise UserError(f'train.prior: expected a loss of one image, that is one number: {error}') from error
        return prior

    def sub_image_loss(self, lq: Tensor) -> Tensor:
        stride, parts = self.opt['train']['stride'], self.opt['train'].get('parts', 2)
        images = shuffle_down(lq, stride)
        if self.stage.name == 'prior':
            with self.autocast():
                answer = fill_masked(self.net, images, parts)
            return self.criterion(answer.float(), images) + self.prior(shuffle_up(answer.float(), stride))
        hidden = random_parts(images, parts)[0].expand_as(images)
        with self.autocast():
            answer = self.net(images * ~hidden)
        return self.criterion(answer.float()[hidden], images[hidden])

    @functools.cached_property
    def prior(self) -> nn.Module:
        return self.make_prior(self.opt).to(self.device)
