"""SubImageModel: one network, trained on sub-images of the noisy photographs and used in several passes."""
from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from basicsr_sassid._checks import UserError, check_choice, check_keys
from basicsr_sassid.archs.subsample_util import REFINEMENTS, denoise_in_passes
from basicsr_sassid.models.staged_model import Stage, StagedModel

PASSES = ('stride', 'parts', 'refine', 'share', 'times', 'by_channel', 'seed')


class SubImageModel(StagedModel):
    """Base of AP-BSN, SDAP and AMSNet. A subclass says what is learnt from a batch: :meth:`training_loss`.

    Option keys beside StagedModel's: in ``train`` ``stride`` (of the sub-images that it is trained on; the patch is a
    multiple of it), and at the top ``inference``, the arguments of :func:`denoise_in_passes`. They are written into
    ``net_g_*.pth``, from which ``Denoiser`` takes them.
    """
    stages = (Stage('bsn', network='g', loss={'type': 'L1Loss'}),)
    train_keys = (*StagedModel.train_keys, 'stride')
    passes: ClassVar[dict[str, Any]] = {}

    @classmethod
    def check_options(cls, opt: dict) -> None:
        super().check_options(opt)
        check_passes(opt.get('inference') or {})
        stride, patch = opt['train'].setdefault('stride', 5), opt['datasets']['train'].get('patch_size')
        if not isinstance(stride, int) or stride < 1:
            raise UserError(f'train.stride: expected a number of pixels >= 1, got {stride!r}')
        if not isinstance(patch, int) or patch % stride:
            raise UserError(f'datasets.train.patch_size: expected a multiple of train.stride {stride}, got {patch!r}')

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        self.inference = {**self.passes, **(opt.get('inference') or {})}
        check_passes(self.inference)

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        return denoise_in_passes(net, lq, **self.inference)

    def net_file(self, name: str) -> dict[str, Any]:
        return {**super().net_file(name), 'inference': self.inference}


def check_passes(block: dict) -> None:
    """Refuse arguments that :func:`denoise_in_passes` does not take. Raises UserError."""
    check_keys(block, PASSES, 'inference')
    check_choice(block.get('refine', 'none'), REFINEMENTS, 'inference.refine')
    for key, least in (('stride', 1), ('parts', 0), ('times', 1)):
        if key in block and (not isinstance(block[key], int) or block[key] < least):
            raise UserError(f'inference.{key}: expected a number >= {least}, got {block[key]!r}')
