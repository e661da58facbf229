"""SubImageModel: a network trained on sub-images of the noisy photographs and used in several passes; its student."""
from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from basicsr_sassid._checks import UserError, check_keys, check_number
from basicsr_sassid.archs.subsample_util import denoise_in_passes
from basicsr_sassid.models.staged_model import Stage, StagedModel, build_and_load, given_file
from basicsr_sassid.weights import check_passes


class SubImageModel(StagedModel):
    """Base of AP-BSN, SDAP and AMSNet. A subclass says what is learnt from a batch: :meth:`sub_image_loss`.

    Stage ``bsn`` trains network_g. With a stage ``unet`` after it, it trains ``network_bsn`` instead, and ``network_g``
    learns, in one pass, what that says in all of its passes: the U-Net student of SASSID for any of these methods.

    Option keys beside StagedModel's: in ``train`` ``stride`` (of the sub-images that it is trained on; the patch is a
    multiple of it), and at the top ``inference``, the arguments of :func:`denoise_in_passes`. They are written into the
    network's ``net_*.pth``, from which ``Denoiser``, and a later run that is given this file, take them.
    """
    stages = (
        Stage('bsn', network='bsn', loss={'type': 'L1Loss'}),
        Stage('unet', network='g', loss={'type': 'L1Loss'}, teachers=('bsn',), cached=('bsn',)),
    )
    train_keys = (*StagedModel.train_keys, 'stride')
    passes: ClassVar[dict[str, Any]] = {}  # how the paper uses its network
    shared_keys: ClassVar[tuple[str, ...]] = ()  # of train, that inference follows if it does not say otherwise

    @classmethod
    def stages_of(cls, opt: dict) -> tuple[Stage, ...]:
        named = opt['train']['stages']
        stages = tuple(stage for stage in cls.stages if stage.name in ('bsn', *named))
        if 'unet' in named:
            return stages
        return tuple(dataclasses.replace(stage, network='g') for stage in stages)

    @classmethod
    def check_options(cls, opt: dict) -> None:
        train = opt['train']
        check_passes(opt.get('inference') or {}, 'inference')
        check_number(train.setdefault('stride', 5), 1, 'train.stride')
        check_keys(opt['datasets'], opt['datasets'], 'datasets', required=['train'])
        patch = opt['datasets']['train'].get('patch_size')
        check_number(patch, 1, 'datasets.train.patch_size')
        if patch % train['stride']:
            raise UserError(f'datasets.train.patch_size: expected a multiple of train.stride {train["stride"]}, got '
                            f'{patch}')
        super().check_options(opt)
        taught = 'unet' in train['stages']
        if opt.get('network_bsn') and not taught:
            raise UserError('network_bsn: it is trained where a stage unet, the student, follows; without one the '
                            'network is network_g')
        passes = cls.passes_of(opt)
        check_size(opt, 'bsn' if taught else 'g', patch // train['stride'], passes.get('multiple_of', 1))
        if taught:
            check_size(opt, 'g', patch)

    @classmethod
    def passes_of(cls, opt: dict) -> dict[str, Any]:
        """How the network is used: as the options say, else as the file says that it was loaded from, else as usual."""
        asked = opt.get('inference') or {}
        if opt['is_train']:
            train = opt['train']
            file = given_file(opt, cls.stages_of(opt)[0].network)
            usual = file.get('inference') or {**cls.passes, **{key: train[key] for key in cls.shared_keys
                                                               if key in train}}
            return {**usual, **asked}
        file = given_file(opt, 'g')
        if 'network' in file and not file.get('inference'):
            return {}  # of ours, and a student: one pass, whatever the options of its teacher were
        return {**(file.get('inference') or cls.passes), **asked}

    def __init__(self, opt: dict) -> None:
        super().__init__(opt)
        self.inference = self.passes_of(opt)
        check_passes(self.inference, 'inference')

    def training_loss(self, lq: Tensor) -> Tensor:
        return super().training_loss(lq) if self.stage.teachers else self.sub_image_loss(lq)

    def sub_image_loss(self, lq: Tensor) -> Tensor:
        """The method's loss on noisy patches, (N, C, H, W) in [0, img_range], H and W multiples of train.stride."""
        raise NotImplementedError

    def teach(self, name: str, lq: Tensor) -> Tensor:
        return denoise_in_passes(self.nets[name], lq, **self.inference)

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        is_student = self.stage is not None and bool(self.stage.teachers)
        return net(lq) if is_student else denoise_in_passes(net, lq, **self.inference)

    def teaching(self, name: str) -> dict[str, Any]:
        return self.inference

    def net_file(self, name: str) -> dict[str, Any]:
        content = super().net_file(name)
        is_student = name not in [stage.network for stage in self.stages if not stage.teachers]
        return content if is_student else {**content, 'inference': self.inference}


def check_size(opt: dict, name: str, side: int, multiple_of: int | None = None) -> None:
    """Refuse a network that does not take what it will be given, or gives other than its size. Raises UserError.

    ``side``: of what it is trained on. ``multiple_of``: what all that it will be given is a multiple of; None: it is
    used as it is, on any size.
    """
    where = f'network_{name}: {opt[f"network_{name}"]["type"]}'
    net = build_and_load(opt, name).eval()
    wanted = getattr(net, 'multiple_of', 1)
    stride = 1 if multiple_of is None else opt['train']['stride']
    if multiple_of is not None and side % wanted:
        warnings.warn(f'{where} pads the sub-images of {side} pixels to a multiple of {wanted}: it would learn beside '
                      'mirrored borders, and err at those of photographs. Choose a datasets.train.patch_size that is a '
                      f'multiple of {wanted * stride}.', stacklevel=2)
    other = (side // (multiple_of or 1) + 1) * (multiple_of or 1)
    advice = 'the student takes any size' if multiple_of is None else 'set inference.multiple_of to what it wants'
    for size, why in ((side, 'datasets.train.patch_size' + (' / train.stride' if stride > 1 else '')),
                      (other, f'photographs have any size: {advice}')):
        x = torch.zeros(1, 3, size, size)
        try:
            with torch.no_grad():
                result = net(x)
        except Exception as error:  # a network of anybody's
            said = str(error).splitlines() or [type(error).__name__]
            raise UserError(f'{where} does not take images of {size}x{size} pixels ({why}): {said[0]}') from error
        if getattr(result, 'shape', None) != x.shape:
            got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UserError(f'{where} makes {got} of {tuple(x.shape)}; expected a network that keeps the size (for a '
                            'super-resolution one: upscale: 1)')
