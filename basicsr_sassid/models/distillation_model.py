"""Any trained denoiser, or two of them, distilled into one fast network: SASSID's third stage for every method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.inference.subsampled import InferenceConfig, check_blind_size, subsampled_inference
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.training.stages import Stage, pretrained_content
from basicsr_sassid.utils.errors import UserError


@MODEL_REGISTRY.register()
class DistilledModel(StagedModel):
    """``network_g`` learns from one trained teacher, ``network_teacher``: a BNN, or an AP-BSN, SDAP or AMSNet in all of
    its passes.

    ``path.pretrain_network_teacher`` names a ``net_*.pth`` of a training, or an author's checkpoint; that file also
    gives the teacher's inference and range. With ``train.teacher_cache`` even a slow teacher predicts each image once.
    To train an AP-BSN, SDAP or AMSNet and its student in one run, see the stage ``unet`` of SubsampledModel.
    """

    stages = (Stage('unet', network='g', loss={'type': 'L1Loss'}, teachers=('teacher',), cached=('teacher',)),)

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """See StagedModel; also that all teachers are given. Raises UserError."""
        if len(cls.stages[0].teachers) == 1 and 'network_flat' in opt:
            raise UserError(
                "options: key 'network_flat' was renamed: network_teacher, and path.pretrain_network_teacher"
            )
        for name in cls.stages[0].teachers:
            if not opt['path'].get(f'pretrain_network_{name}'):
                raise UserError(
                    f'path.pretrain_network_{name}: {cls.__name__} learns from a trained network_{name}; name its .pth'
                )
        return super().validate_options(opt)

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        contents = {name: pretrained_content(opt, name) for name in self.nets if name != 'g'}
        self.teacher_configs = {
            name: InferenceConfig.from_file(content.get('inference'), f'network_{name}')
            for name, content in contents.items()
        }
        for name, config in self.teacher_configs.items():
            where = f'path.pretrain_network_{name}: inference.blind_size'
            check_blind_size(self.nets[name], config, where, is_teacher=True)
        self.teacher_ranges = {name: content.get('img_range', 255) for name, content in contents.items()}

    def teacher_forward(self, name: str, lq: Tensor) -> Tensor:
        """See StagedModel: in the teacher's range and all of its passes."""
        scale = self.teacher_ranges[name] / self.img_range
        return subsampled_inference(self.nets[name], lq * scale, self.teacher_configs[name]) / scale

    def cache_settings(self, name: str) -> dict[str, Any]:
        """See StagedModel."""
        return {'inference': self.teacher_configs[name].model_dump(), 'range': self.teacher_ranges[name]}


@MODEL_REGISTRY.register()
class TwoTeacherModel(DistilledModel):
    """``network_g`` learns from ``network_flat`` where the image is flat and from ``network_texture`` where it is
    textured, weighted by SASSID's alpha (eq. 5). The teachers may be of any two methods. No paper has this model.
    """

    stages = (
        Stage(
            'unet',
            network='g',
            loss={'type': 'TwoTeacherL1Loss'},
            teachers=('flat', 'texture'),
            cached=('flat', 'texture'),
        ),
    )

    @classmethod
    def loss_defaults(cls, opt: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """See StagedModel."""
        return {'img_range': opt.get('img_range', 255)}
