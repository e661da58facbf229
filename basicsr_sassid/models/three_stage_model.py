"""SASSID: Spatially Adaptive Self-Supervised Learning for Real-World Image Denoising.

Li et al., CVPR 2023, arXiv 2303.14934. Written from the paper. Licence: Apache-2.0.
"""
from __future__ import annotations

import inspect
import warnings
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from basicsr_sassid._checks import check_keys
from basicsr_sassid.models.staged_model import Stage, StagedModel


@MODEL_REGISTRY.register()
class ThreeStageModel(StagedModel):
    """Stage ``bnn``: the BNN predicts each pixel from outside its blind square. Stage ``lan``: the LAN learns, from
    what it sees nearby, to say what the BNN says. Stage ``unet``: the U-Net learns from the BNN where the image is
    flat and from the LAN where it is textured.

    Option key beside StagedModel's, in ``train``: ``texture`` (``window``, ``lower``, ``upper``: the knobs of alpha, by
    default the paper's 7, 1, 5).
    """
    stages = (
        Stage('bnn', network='bnn', loss={'type': 'L1Loss'}),
        Stage('lan', network='lan', loss={'type': 'SelectiveL1Loss'}, teachers=('bnn',), cached=('bnn',)),
        Stage('unet', network='g', loss={'type': 'TwoTeacherL1Loss'}, teachers=('bnn', 'lan'),
              cached=('bnn',)),
    )
    train_keys = (*StagedModel.train_keys, 'texture')

    @classmethod
    def check_options(cls, opt: dict) -> None:
        check_keys(opt['train'].get('texture') or {}, ('window', 'lower', 'upper'), 'train.texture')
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
