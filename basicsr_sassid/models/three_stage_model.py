"""SASSID: Spatially Adaptive Self-Supervised Learning for Real-World Image Denoising.

Li et al., CVPR 2023, arXiv 2303.14934. Written from the paper. Licence: Apache-2.0.
"""
from __future__ import annotations

from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid._checks import UserError, check_keys
from basicsr_sassid.models.staged_model import Stage, StagedModel


@MODEL_REGISTRY.register()
class ThreeStageModel(StagedModel):
    """Stage ``bnn``: the BNN predicts each pixel from outside its blind square. Stage ``lan``: the LAN learns, from
    what it sees nearby, to say what the BNN says. Stage ``unet``: the U-Net learns from the BNN where the image is
    flat and from the LAN where it is textured.

    Option keys beside StagedModel's, in ``train``: ``texture`` (``window``, ``lower``, ``upper``: the knobs of alpha,
    by default the paper's 7, 1, 5) and ``teacher_blind_size``: blind square of the BNN when it teaches, odd, at most
    its own ``blind_size`` and by default the same, as in the paper. A smaller one lets the finished teacher see more
    of the image, at the risk of passing correlated noise on (the idea is AT-BSN's, Chen et al., CVPR 2024).
    """
    stages = (
        Stage('bnn', network='bnn', loss={'type': 'L1Loss'}),
        Stage('lan', network='lan', loss={'type': 'SelectiveL1Loss'}, teachers=('bnn',)),
        Stage('unet', network='g', loss={'type': 'TwoTeacherL1Loss'}, teachers=('bnn', 'lan')),
    )
    train_keys = (*StagedModel.train_keys, 'texture', 'teacher_blind_size')

    @classmethod
    def check_options(cls, opt: dict) -> None:
        super().check_options(opt)
        check_keys(opt['train'].get('texture') or {}, ('window', 'lower', 'upper'), 'train.texture')
        own, teaching = opt['network_bnn'].get('blind_size', 9), opt['train'].get('teacher_blind_size')
        if teaching is not None and not (isinstance(teaching, int) and teaching % 2 and 1 <= teaching <= own):
            raise UserError(f'train.teacher_blind_size: expected an odd number from 1 to network_bnn.blind_size ({own}), '
                            f'got {teaching!r}')

    def loss_defaults(self, stage: Stage) -> dict[str, Any]:
        if stage.name == 'bnn':
            return {}
        return {**(self.opt['train'].get('texture') or {}), 'img_range': self.img_range}

    def answer(self, teacher: str, lq: Tensor) -> Tensor:
        if teacher == 'bnn':
            return self.nets['bnn'](lq, self.opt['train'].get('teacher_blind_size'))
        return super().answer(teacher, lq)
