"""Any trained denoiser, or two, taught to one fast network: what SASSID's third stage does, for every method."""
from __future__ import annotations

from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid._checks import UserError
from basicsr_sassid.archs.subsample_util import denoise_in_passes
from basicsr_sassid.models.staged_model import Stage, StagedModel
from basicsr_sassid.weights import read_weights


@MODEL_REGISTRY.register()
class DistilledModel(StagedModel):
    """``network_g`` learns from one teacher, ``network_flat``: a BNN, or an AP-BSN, SDAP or AMSNet with all its passes.

    Here the teacher is given; to train an AP-BSN, SDAP or AMSNet and its student in one run, see SubImageModel's stage
    ``unet``. ``path.pretrain_network_flat`` names a ``net_*.pth`` of a training, or an author's checkpoint; how the
    teacher is used (its passes, its range of values) is taken from that file. With ``train.teacher_cache`` even a slow
    teacher is asked only once.
    """
    stages = (Stage('unet', network='g', loss={'type': 'L1Loss'}, teachers=('flat',), cached=('flat',)),)

    @classmethod
    def check_options(cls, opt: dict) -> None:
        for name in cls.stages[0].teachers:
            if not opt['path'].get(f'pretrain_network_{name}'):
                raise UserError(f'path.pretrain_network_{name}: {cls.__name__} learns from a trained network_{name}; '
                                'name its .pth')
        super().check_options(opt)

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        files = {name: read_weights(opt['path'][f'pretrain_network_{name}']) for name in self.nets if name != 'g'}
        self.uses = {name: {'passes': content.get('inference') or {}, 'range': content.get('img_range', 255)}
                     for name, content in files.items()}

    def teach(self, name: str, lq: Tensor) -> Tensor:
        use = self.uses[name]
        scale = use['range'] / self.img_range
        return denoise_in_passes(self.nets[name], lq * scale, **use['passes']) / scale

    def teaching(self, name: str) -> dict[str, Any]:
        return self.uses[name]


@MODEL_REGISTRY.register()
class TwoTeacherModel(DistilledModel):
    """``network_g`` learns from ``network_flat`` where the image is flat and from ``network_texture`` where it is
    textured, weighed by SASSID's alpha (eq. 5). The teachers may be of any two methods. This is ours, not a paper's.
    """
    stages = (Stage('unet', network='g', loss={'type': 'TwoTeacherL1Loss'}, teachers=('flat', 'texture'),
                    cached=('flat', 'texture')),)

    @classmethod
    def loss_defaults(cls, opt: dict, stage: Stage) -> dict[str, Any]:
        return {'img_range': opt.get('img_range', 255)}
