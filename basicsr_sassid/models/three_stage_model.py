"""SASSID: Spatially Adaptive Self-Supervised Learning for Real-World Image Denoising.

Li et al., CVPR 2023, arXiv 2303.14934. Written from the paper. Licence: Apache-2.0.
"""
from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from basicsr_sassid._checks import UserError, check_choice, check_keys
from basicsr_sassid.models.staged_model import Stage, StagedModel
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.posterior import PosteriorMean

_MOST_MEASURED = 200  # training images whose noise is measured, evenly spaced
_MOST_CROPS = 32  # of them, on which the BNN's error is measured


@MODEL_REGISTRY.register()
class ThreeStageModel(StagedModel):
    """Stage ``bnn``: the BNN predicts each pixel from outside its blind square. Stage ``lan``: the LAN learns, from
    what it sees nearby, to say what the BNN says. Stage ``unet``: the U-Net learns from the BNN where the image is
    flat and from the LAN where it is textured.

    Option key beside StagedModel's, in ``train``: ``texture`` (``window``, ``lower``, ``upper``: the knobs of alpha, by
    default the paper's 7, 1, 5); ``posterior`` (False, as in the paper; True: the BNN's answer is blended with the
    noisy image, :class:`PosteriorMean`, with the noise of the training images; auto: where the trained BNN errs by more
    than the noise, as it does where the noise is weak).
    """
    stages = (
        Stage('bnn', network='bnn', loss={'type': 'L1Loss'}),
        Stage('lan', network='lan', loss={'type': 'SelectiveL1Loss'}, teachers=('bnn',), cached=('bnn',)),
        Stage('unet', network='g', loss={'type': 'TwoTeacherL1Loss'}, teachers=('bnn', 'lan'),
              cached=('bnn',)),
    )
    train_keys = (*StagedModel.train_keys, 'texture', 'posterior')
    posterior: PosteriorMean | None = None

    @classmethod
    def check_options(cls, opt: dict) -> None:
        check_keys(opt['train'].get('texture') or {}, ('window', 'lower', 'upper'), 'train.texture')
        check_choice(opt['train'].get('posterior', False), (True, False, 'auto'), 'train.posterior')
        super().check_options(opt)
        sizes = (cls.built_size(opt, 'lan', 'receptive_size'), cls.built_size(opt, 'bnn', 'blind_size'))
        if None not in sizes and sizes[0] > sizes[1]:
            warnings.warn(f'network_lan.receptive_size {sizes[0]} is larger than network_bnn.blind_size {sizes[1]}: '
                          'what both see, the LAN learns to repeat, the BNN\'s noise included.', stacklevel=2)

    @staticmethod
    def built_size(opt: dict, network: str, argument: str) -> int | None:
        """An argument of a network as it will be built; None where the network has no such one."""
        block = opt[f'network_{network}']
        parameter = inspect.signature(ARCH_REGISTRY.get(block['type'])).parameters.get(argument)
        return parameter and block.get(argument, parameter.default)

    @classmethod
    def loss_defaults(cls, opt: dict, stage: Stage) -> dict[str, Any]:
        if stage.name == 'bnn':
            return {}
        return {**(opt['train'].get('texture') or {}), 'img_range': opt.get('img_range', 255)}

    # ---- the BNN's answer and the noisy image ----

    def begin(self, current_iter: int, dataset: Dataset) -> None:
        if self.opt['train'].get('posterior') and self.posterior is None:
            if not hasattr(dataset, 'image'):
                raise UserError(f'train.posterior needs NoisyImageDataset, not {type(dataset).__name__}. Set it to '
                                'false.')
            some = range(0, len(dataset), -(-len(dataset) // _MOST_MEASURED))
            noise = estimate_noise(dataset.image(index) for index in some)
            get_root_logger().info(f'Noise of {len(some)} training images: sigma '
                                   f'{", ".join(f"{value:.2f}" for value in noise.sigma)} grey levels')
            self.posterior = PosteriorMean(noise)
            side = dataset.patch_size
            self.crops = [dataset.image(index)[:side, :side] for index in some[::-(-len(some) // _MOST_CROPS)]]
        super().begin(current_iter, dataset)

    @functools.cached_property
    def blends(self) -> bool:
        """Whether the BNN's answers are blended: with ``auto``, where it errs by more than the noise."""
        if self.posterior is None or self.opt['train']['posterior'] != 'auto':
            return self.posterior is not None
        lq = torch.from_numpy(np.stack(self.crops)).permute(0, 3, 1, 2).to(self.device)
        with torch.no_grad(), self.autocast():
            answers = torch.cat([self.teach('bnn', crop[None] * self.img_range).float() for crop in lq])
        error, variance = self.posterior.compare(answers * (255 / self.img_range), lq * 255)
        done = 'blended with the noisy images' if error > variance else 'taken as they are'
        get_root_logger().info(f'The BNN errs by {max(error, 0) ** 0.5:.1f} grey levels, the noise is '
                               f'{variance ** 0.5:.1f}: its answers are {done}')
        return error > variance

    def teaching(self, name: str) -> dict[str, Any]:
        return {'posterior': self.posterior.noise.to_dict()} if name == 'bnn' and self.blends else {}

    def refine(self, name: str, answer: Tensor, lq: Tensor) -> Tensor:
        if name != 'bnn' or not self.blends:
            return answer
        scale = 255 / self.img_range
        return self.posterior(answer * scale, lq * scale) / scale
