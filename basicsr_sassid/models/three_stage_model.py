"""SASSID: Spatially Adaptive Self-Supervised Learning for Real-World Image Denoising.

Li et al., CVPR 2023, arXiv 2303.14934. Written from the paper. Licence: Apache-2.0.
"""
from __future__ import annotations

from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY

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

    @classmethod
    def loss_defaults(cls, opt: dict, stage: Stage) -> dict[str, Any]:
        if stage.name == 'bnn':
            return {}
        return {**(opt['train'].get('texture') or {}), 'img_range': opt.get('img_range', 255)}
