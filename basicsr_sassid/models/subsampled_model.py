"""SubsampledModel: a network that is trained on sub-images of the noisy photographs, and its student."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from basicsr_sassid.archs.capabilities import capabilities_of
from basicsr_sassid.inference.subsampled import SINGLE_PASS, InferenceConfig, check_blind_size, subsampled_inference
from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.training.schema import SubsampledTrainOptions
from basicsr_sassid.training.stages import Stage, build_and_load, pretrained_content
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_keys, check_number


class SubsampledModel(StagedModel):
    """Base of AP-BSN, SDAP and AMSNet. A subclass defines the loss of a batch: :meth:`training_loss`.

    Stage ``bsn`` trains ``network_bsn``. In a stage ``unet`` after it, which may be left out, ``network_g`` learns to
    predict in one pass what ``network_bsn`` predicts in all of its passes: SASSID's student for any of these methods.

    The option block ``inference`` (:class:`InferenceConfig`) is stored in ``net_bsn_*.pth``, from which ``Denoiser``,
    and a later run that is given this file, take it.

    Attributes:
        default_inference: how the paper applies its network.
        shared_keys: keys of ``train`` that ``inference`` follows unless it has its own.
    """

    stages = (
        Stage('bsn', network='bsn', loss={'type': 'L1Loss'}),
        Stage('unet', network='g', loss={'type': 'L1Loss'}, teachers=('bsn',), cached=('bsn',)),
    )
    train_schema: ClassVar[type[SubsampledTrainOptions]] = SubsampledTrainOptions
    takes_inference = True
    default_inference: ClassVar[InferenceConfig] = SINGLE_PASS
    shared_keys: ClassVar[tuple[str, ...]] = ()
    options: SubsampledTrainOptions

    @classmethod
    def active_stages(cls, opt: Mapping[str, Any]) -> tuple[Stage, ...]:
        """Stage ``bsn``, and those after it that the options name."""
        return tuple(stage for stage in cls.stages if stage.name in ('bsn', *opt['train']['stages']))

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """See StagedModel; also that both networks take the sizes that they will get. Raises UserError."""
        train = cls.train_schema.parse(opt['train'], 'train')
        InferenceConfig.parse(opt.get('inference') or {}, 'inference')
        check_keys(opt['datasets'], opt['datasets'], 'datasets', required=['train'])
        patch = opt['datasets']['train'].get('patch_size')
        check_number(patch, 1, 'datasets.train.patch_size')
        if patch % train.pd_a:
            raise UserError(f'datasets.train.patch_size: expected a multiple of train.pd_a {train.pd_a}, got {patch}')
        has_student = 'unet' in train.stages
        if opt.get('network_g') and not has_student:
            raise UserError(
                'network_g: it is the student, which a stage unet trains; the network of stage bsn is '
                'network_bsn, in this and all other options.'
            )
        resolved = super().validate_options(opt)
        config = cls.resolve_inference({**opt, 'train': resolved})
        _check_sizes(opt, 'bsn', patch // train.pd_a, train.pd_a, config.multiple_of)
        if has_student:
            _check_sizes(opt, 'g', patch)
        return resolved

    @classmethod
    def resolve_inference(cls, opt: Mapping[str, Any]) -> InferenceConfig:
        """The options' ``inference``; what they leave open is the pretrained file's, else the method's default."""
        given, name = opt.get('inference') or {}, 'bsn' if opt['is_train'] else 'g'
        content = pretrained_content(opt, name)
        stored = content.get('inference')
        if not opt['is_train'] and 'network' in content and not stored:
            return SINGLE_PASS  # a student: one pass, whatever the options of its teacher are
        if stored:
            base = InferenceConfig.from_file(stored, f'path.pretrain_network_{name}')
        else:
            shared = {key: opt['train'][key] for key in cls.shared_keys} if opt['is_train'] else {}
            base = cls.default_inference.model_copy(update=shared)
        return InferenceConfig.parse({**base.model_dump(), **given}, 'inference')

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.inference = self.resolve_inference(opt)
        net = self.nets['bsn' if self.is_train else 'g']
        has_student = any(stage.teachers for stage in self.stages)
        check_blind_size(net, self.inference, 'inference.blind_size', is_teacher=has_student)

    def training_loss(self, lq: Tensor) -> Tensor:
        """The method's loss on noisy patches, (N, C, H, W) in [0, img_range], H and W multiples of train.pd_a."""
        raise NotImplementedError

    def teacher_forward(self, name: str, lq: Tensor) -> Tensor:
        """See StagedModel: the prediction in all passes."""
        return subsampled_inference(self.nets[name], lq, self.inference)

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        """See StagedModel: the student in one pass, the method's network in all of its passes."""
        is_student = self.stage is not None and bool(self.stage.teachers)
        return net(lq) if is_student else subsampled_inference(net, lq, self.inference)

    def cache_settings(self, name: str) -> dict[str, Any]:
        """See StagedModel."""
        return self.inference.model_dump()

    def net_file(self, name: str) -> dict[str, Any]:
        """See MultiNetworkModel: with ``inference`` for the method's network."""
        content = super().net_file(name)
        return content if name == 'g' else {**content, 'inference': self.inference.model_dump()}


def _check_sizes(opt: Mapping[str, Any], name: str, side: int, pd_a: int = 1, multiple_of: int | None = None) -> None:
    """Refuse a network that does not take the sizes that it will get, or changes them.

    Args:
        opt: all options.
        name: of the network.
        side: of its input in training, in pixels.
        pd_a: PD stride of the training.
        multiple_of: ``inference.multiple_of``; None: the network is applied as it is, to any size.

    Raises:
        UserError: the network refuses a size, or its output has another one.
    """
    where = f'network_{name}: {opt[f"network_{name}"]["type"]}'
    net = build_and_load(opt, name).eval()
    grid = capabilities_of(net).multiple_of
    if multiple_of is not None and side % grid:
        warnings.warn(
            f'{where} pads the sub-images of {side} pixels to a multiple of {grid}: it would learn beside '
            'mirrored borders, and err at those of photographs. Choose a datasets.train.patch_size that is a '
            f'multiple of {grid * pd_a}.',
            stacklevel=2,
        )
    unit = multiple_of or 1
    advice = 'the student takes any size' if multiple_of is None else 'set inference.multiple_of to what it needs'
    for size, reason in (
        (side, 'datasets.train.patch_size' + (' / train.pd_a' if pd_a > 1 else '')),
        ((side // unit + 1) * unit, f'photographs have any size: {advice}'),
    ):
        _probe_size(net, size, where, reason)


def _probe_size(net: nn.Module, size: int, where: str, reason: str) -> None:
    x = torch.zeros(1, 3, size, size)
    try:
        with torch.no_grad():
            result = net(x)
    except Exception as error:  # a network of anybody's
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f'{where} does not take images of {size}x{size} pixels ({reason}): {lines[0]}') from error
    if getattr(result, 'shape', None) != x.shape:
        got = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise UserError(
            f'{where} makes {got} of {tuple(x.shape)}; expected a network that keeps the size (for a '
            'super-resolution one: upscale: 1)'
        )
