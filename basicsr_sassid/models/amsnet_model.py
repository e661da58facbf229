"""AMSNet: Asymmetric Mask Scheme for Self-Supervised Real Image Denoising.

Liao et al., ECCV 2024, arXiv 2407.06514. Written from its description. Licence: Apache-2.0.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.losses import build_loss
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.models.subsampled_model import SubsampledModel
from basicsr_sassid.ops.subsampling import masked_inference, pd_down, pd_up, random_partition
from basicsr_sassid.training.schema import AMSNetTrainOptions
from basicsr_sassid.training.stages import Stage
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_range, check_registered


@MODEL_REGISTRY.register()
class AMSNetModel(SubsampledModel):
    """Any network of the registry is trained to predict the pixels that a mask hides, on sub-images. At inference each
    of ``inference.num_masks`` masks hides its share of the pixels, and together they give the image. Then R3.

    Stage ``bsn`` is the paper's AMSNet-B. A stage ``prior`` after it is AMSNet-P: the pixels of all masks are
    predicted, and beside their distance from the noisy image a smoothness prior is lowered. Reconstruction: the
    paper's formula of the prior could not be read; this is total variation of the whole image, BasicSR's
    ``WeightedTVLoss``, with the paper's weight. ``-E`` of either is ``inference.refinement: r3``.
    """

    stages = (
        SubsampledModel.stages[0],
        Stage('prior', network='bsn', loss={'type': 'L1Loss'}),
        SubsampledModel.stages[1],
    )
    train_schema = AMSNetTrainOptions
    default_inference = InferenceConfig(pd_b=2, num_masks=2, refinement='r3')
    shared_keys = ('num_masks',)
    options: AMSNetTrainOptions

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """See SubsampledModel. Raises UserError."""
        resolved = super().validate_options(opt)
        if 'prior' in resolved['stages']:
            make_prior(resolved['prior'])
        elif resolved['prior'] is not None:
            raise UserError('train.prior: it belongs to the stage prior, which train.stages does not have')
        return resolved

    def training_loss(self, lq: Tensor) -> Tensor:
        """L1 on the hidden pixels; in stage ``prior`` on all, plus the prior. (N, C, H, W) in [0, img_range]."""
        pd_a, num_masks = self.options.pd_a, self.options.num_masks
        images = pd_down(lq, pd_a)
        if self.active.stage.name == 'prior':
            with self.autocast():
                prediction = masked_inference(self.net, images, num_masks)
            return self.criterion(prediction.float(), images) + self.prior(pd_up(prediction.float(), pd_a))
        hidden = random_partition(images, num_masks)[0].expand_as(images)
        with self.autocast():
            prediction = self.net(images * ~hidden)
        return self.criterion(prediction.float()[hidden], images[hidden])

    @functools.cached_property
    def prior(self) -> nn.Module:
        """The loss of one image of stage ``prior``."""
        return make_prior(self.options.prior).to(self.device)


def make_prior(block: Mapping[str, Any] | None) -> nn.Module:
    """A loss of one image from ``train.prior``. Raises UserError."""
    block = block or {}
    if block.get('type', 'WeightedTVLoss') == 'WeightedTVLoss':
        block = {'type': 'WeightedTVLoss', 'loss_weight': 0.01, **block}
    check_registered(LOSS_REGISTRY, block, 'train.prior')
    if 'loss_weight' in block:
        check_range(block['loss_weight'], 'train.prior.loss_weight', least=0)
    try:
        prior = build_loss(block)
        prior(torch.zeros(1, 3, 8, 8)).item()
    except Exception as error:  # a loss of anybody's
        raise UserError(f'train.prior: expected a loss of one image, that is one number: {error}') from error
    return prior
