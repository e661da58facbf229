"""SubImageModel: one network, trained on sub-images of the noisy photographs and used in several passes."""
from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from basicsr_sassid._checks import UserError
from basicsr_sassid.archs.subsample_util import check_passes, denoise_in_passes
from basicsr_sassid.models.staged_model import Stage, StagedModel, build_and_load
from basicsr_sassid.weights import read_weights


class SubImageModel(StagedModel):
    """Base of AP-BSN, SDAP and AMSNet. A subclass says what is learnt from a batch: :meth:`sub_image_loss`.

    Stage ``bsn`` trains network_g. With a stage ``unet`` after it, it trains ``network_bsn`` instead, and ``network_g``
    learns, in one pass, what that says in all of its passes: the U-Net student of SASSID for any of these methods.

    Option keys beside StagedModel's: in ``train`` ``stride`` (of the sub-images that it is trained on; the patch is a
    multiple of it), and at the top ``inference``, the arguments of :func:`denoise_in_passes`. They are written into the
    network's ``net_*.pth``, from which ``Denoiser`` takes them.
    """
    stages = (
        Stage('bsn', network='bsn', loss={'type': 'L1Loss'}),
        Stage('unet', network='g', loss={'type': 'L1Loss'}, teachers=('bsn',), cached=('bsn',)),
    )
    train_keys = (*StagedModel.train_keys, 'stride')
    passes: ClassVar[dict[str, Any]] = {}

    @classmethod
    def stages_of(cls, opt: dict) -> tuple[Stage, ...]:
        named = opt['train'].get('stages') or {}
        if 'unet' in named:
            return tuple(stage for stage in cls.stages if stage.name in ('bsn', *named))
        return tuple(dataclasses.replace(stage, network='g') for stage in cls.stages if stage.name in ('bsn', *named))

    @classmethod
    def check_options(cls, opt: dict) -> None:
        super().check_options(opt)
        check_passes(opt.get('inference') or {}, 'inference')
        stride, patch = opt['train'].setdefault('stride', 5), opt['datasets']['train'].get('patch_size')
        if not isinstance(stride, int) or stride < 1:
            raise UserError(f'train.stride: expected a number of pixels >= 1, got {stride!r}')
        if not isinstance(patch, int) or patch % stride:
            raise UserError(f'datasets.train.patch_size: expected a multiple of train.stride {stride}, got {patch!r}')
        multiple_of = (opt.get('inference') or {}).get('multiple_of', 1)
        check_size(opt, cls.stages_of(opt)[0].network, patch // stride, multiple_of)

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        usual, weights = self.passes, opt['path'].get('pretrain_network_g')
        if weights and not self.is_train:  # its file knows better
            content = read_weights(weights)
            usual = content.get('inference') or ({} if 'network' in content else usual)
        # a student is used in one pass, whatever its teacher's options say
        self.inference = {**usual, **(opt.get('inference') or {})} if usual else {}
        check_passes(self.inference, 'inference')

    def training_loss(self, lq: Tensor) -> Tensor:
        return super().training_loss(lq) if self.stage.teachers else self.sub_image_loss(lq)

    def sub_image_loss(self, lq: Tensor) -> Tensor:
        """The method's loss on noisy patches, (N, C, H, W) in [0, img_range], H and W multiples of train.stride."""
        raise NotImplementedError

    @property
    def in_passes(self) -> str:
        """The network that is used in several passes; a student is not."""
        return self.stages[0].network if self.stages else 'g'

    def teach(self, name: str, lq: Tensor) -> Tensor:
        return self.denoise(self.nets[name], lq)

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        is_student = self.stage is not None and bool(self.stage.teachers) and net is not self.nets[self.in_passes]
        return net(lq) if is_student else denoise_in_passes(net, lq, **self.inference)

    def teaching(self, name: str) -> dict[str, Any]:
        return self.inference

    def net_file(self, name: str) -> dict[str, Any]:
        content = super().net_file(name)
        return {**content, 'inference': self.inference} if name == self.in_passes else content


def check_size(opt: dict, name: str, side: int, multiple_of: int) -> None:
    """Refuse a network that does not take what it will be given, or gives other than its size. Raises UserError."""
    where = f'network_{name}: {opt[f"network_{name}"]["type"]}'
    net = build_and_load(opt, name).eval()
    wanted = getattr(net, 'multiple_of', 1)
    if side % wanted:
        warnings.warn(f'{where} pads the sub-images of {side} pixels to a multiple of {wanted}: it would learn beside '
                      'mirrored borders, and err at those of photographs. Choose a datasets.train.patch_size that is a '
                      f'multiple of {wanted * opt["train"]["stride"]}.', stacklevel=2)
    other = (side // multiple_of + 1) * multiple_of
    for size, advice in ((side, 'the sub-images: datasets.train.patch_size / train.stride'),
                         (other, 'photographs have any size; set inference.multiple_of to what it wants')):
        x = torch.zeros(1, 3, size, size)
        try:
            with torch.no_grad():
                result = net(x)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(f'{where} does not take images of {size}x{size} pixels ({advice}): '
                            f'{str(error).splitlines()[0]}') from error
        if getattr(result, 'shape', None) != x.shape:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UserError(f'{where} makes {got} of {tuple(x.shape)}; expected a network that keeps the size (for a '
                            'super-resolution one: upscale: 1)')
