"""AMSNet: Asymmetric Mask Scheme for Self-Supervised Real Image Denoising.

Liao et al., ECCV 2024, arXiv 2407.06514. Written from its description. Licence: Apache-2.0.
"""
from __future__ import annotations

import functools

from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from basicsr_sassid._checks import UserError, check_registered
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
    stages = (
        Stage('bsn', network='bsn', loss={'type': 'L1Loss'}),
        Stage('prior', network='bsn', loss={'type': 'L1Loss'}),
        Stage('unet', network='g', loss={'type': 'L1Loss'}, teachers=('bsn',), cached=('bsn',)),
    )
    train_keys = (*SubImageModel.train_keys, 'parts', 'prior')
    passes = {'stride': 2, 'parts': 2, 'refine': 'replace'}

    @classmethod
    def check_options(cls, opt: dict) -> None:
        super().check_options(opt)
        parts = opt['train'].get('parts', 2)
        if not isinstance(parts, int) or parts < 2:
            raise UserError(f'train.parts: expected a number >= 2 (one of so many pixels is hidden), got {parts!r}')
        cls.make_prior(opt)

    @staticmethod
    def make_prior(opt: dict) -> nn.Module:
        """Raises UserError."""
        block = {'type': 'WeightedTVLoss', 'loss_weight': 0.01, **(opt['train'].get('prior') or {})}
        check_registered(LOSS_REGISTRY, block, 'train.prior')
        return build_loss(block)

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
