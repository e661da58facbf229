"""A student of a BNN's predictions with many blind sizes.

AT-BSN (Chen et al., CVPR 2024, arXiv 2303.16783): the BNN is trained with a large blind neighbourhood and predicts with
several sizes. All predictions are targets of the student, of equal weight. BlindSizesModel is the general form, which
no paper has: the sizes follow the measured noise, and each pixel may weight them, as SASSID's alpha weights its two
teachers. Written from the papers. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.inference.subsampled import SINGLE_PASS, InferenceConfig, subsampled_inference
from basicsr_sassid.losses.weighted_targets_loss import recharge
from basicsr_sassid.models.three_stage_model import ThreeStageModel
from basicsr_sassid.training.blind_sizes import (
    BlindSizeChoice,
    candidate_sizes,
    check_patch_size,
    measure_choice,
    turned,
)
from basicsr_sassid.training.protocols import WholeImageDataset
from basicsr_sassid.training.schema import ATBSNTrainOptions, BlindSizesTrainOptions
from basicsr_sassid.training.stages import Stage, pretrained_content
from basicsr_sassid.training.target_weights import texture_weights
from basicsr_sassid.utils.blind_size import BlindSize
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import argument_names

_FUSION_COST = 0.17  # of one blind size's 1x1 convolutions, as a fraction of the trunk's multiplications, at any width
_MOST_CROPS = 16  # on which blind sizes are compared


@MODEL_REGISTRY.register()
class BlindSizesModel(ThreeStageModel):
    """Stage ``bnn``: the BNN is trained with one blind size. Stage ``unet``: the U-Net learns from its predictions with
    several sizes, ``train.teacher_blind_sizes``, weighted by ``train.teacher_weights``.

    Attributes:
        choice: the blind sizes and weights in use; those of the options until the BNN is trained.
    """

    stages = (
        Stage('bnn', network='bnn', loss={'type': 'L1Loss'}),
        Stage('unet', network='g', loss={'type': 'WeightedTargetsL1Loss'}, teachers=('bnn',), cached=('bnn',)),
    )
    train_schema: ClassVar[type[BlindSizesTrainOptions]] = BlindSizesTrainOptions
    takes_inference = True
    options: BlindSizesTrainOptions

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """See ThreeStageModel; also that ``network_bnn`` predicts with any blind size, that a patch is larger than what
        the sizes hide, and that the loss takes several targets. Raises UserError."""
        InferenceConfig.parse(opt.get('inference') or {}, 'inference')
        resolved = super().validate_options(opt)
        if opt['network_bnn']['type'] != BNN.__name__:
            raise UserError(
                f'network_bnn.type: {cls.__name__} needs a network that predicts with any blind size, {BNN.__name__}, '
                f'got {opt["network_bnn"]["type"]}'
            )
        train = cls.train_schema.model_validate(resolved)
        check_patch_size(opt['datasets']['train'].get('patch_size'), train)
        _check_loss(opt, cls.stages[-1])
        return resolved

    @classmethod
    def loss_defaults(cls, opt: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """See StagedModel: none, the weights are given to the loss."""
        return {}

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.inference = _resolve_inference(opt)
        if self.is_train:
            sizes = self.options.teacher_blind_sizes
            self.choice = BlindSizeChoice(candidate_sizes(self.bnn.blind_size) if sizes == 'auto' else list(sizes))
        self.is_chosen = False

    @property
    def bnn(self) -> BNN:
        """The teacher."""
        net = self.nets['bnn']
        assert isinstance(net, BNN)
        return net

    # ---- blind sizes and weights ----

    def check_dataset(self, dataset: Any) -> None:
        """See ThreeStageModel; also for ``train.teacher_blind_sizes`` and ``train.teacher_weights``."""
        super().check_dataset(dataset)
        if self.options.is_measured and not isinstance(dataset, WholeImageDataset):
            raise UserError(
                'train.teacher_blind_sizes: auto, and teacher_weights: risk, need NoisyImageDataset, not '
                f'{type(dataset).__name__}. List the sizes, and set teacher_weights: texture or equal.'
            )
        rectangle = next((size for size in self.choice.sizes if size != turned(size)), None)
        if rectangle is not None and not self.sees_upright_images(dataset):
            raise UserError(
                'train.teacher_blind_sizes: expected one number for each size, since the patches are turned by 90 '
                f'degrees, got {rectangle}. Set datasets.train.use_rot: false, or teacher_cache: lmdb.'
            )

    def prepare_targets(self, stage: Stage, dataset: Any) -> None:
        """See ThreeStageModel: choose the blind sizes, and measure their weights, once the BNN is trained."""
        if self.options.is_measured and self.stage_iters[-1]:
            self.measure_noise(dataset)  # before the first stage, which an error here would waste
        if not stage.teachers or self.is_chosen:
            return
        if self.options.is_measured:
            choice = [self._measure_choice(dataset)]
            if self.opt['dist']:  # processes whose sizes differ would not share a teacher cache
                torch.distributed.broadcast_object_list(choice)
            self.choice = choice[0]
        self.is_chosen = True
        get_root_logger().info(self.choice.describe())

    def _measure_choice(self, dataset: Any) -> BlindSizeChoice:
        noise, sizes = self.measure_noise(dataset), self.choice.sizes
        if self.options.teacher_blind_sizes == 'auto' and self.sees_upright_images(dataset):
            sizes = candidate_sizes(self.bnn.blind_size, noise.correlation_sides())
        crops = self.sample_crops(dataset, _MOST_CROPS)
        return measure_choice(self._predictions, self._targets, sizes, self.options, crops, noise)

    def sees_upright_images(self, dataset: Any) -> bool:
        """Whether the BNN predicts for images that are not turned: only then its sizes may be rectangles."""
        is_turned = self.opt['datasets']['train'].get('use_rot') is not False  # by default they are turned
        return not is_turned or bool(self.cached_teachers(self.stages[-1], dataset, quiet=True))

    @torch.no_grad()
    def _predictions(self, noisy: Tensor, sizes: Sequence[BlindSize]) -> Tensor:
        """(N, C, H, W) in grey levels on the CPU -> (N, K, C, H, W), likewise."""
        scale = self.img_range / 255
        with self.autocast():
            predictions = self.bnn.predict_all(noisy.to(self.device) * scale, sizes)
        return (predictions.float() / scale).unflatten(1, (len(sizes), -1)).cpu()

    @torch.no_grad()
    def _targets(self, noisy: Tensor, sizes: Sequence[BlindSize]) -> Tensor:
        """The same after :meth:`postprocess_target`."""
        scale = self.img_range / 255
        predictions = self._predictions(noisy, sizes).flatten(1, 2) * scale
        return (self.postprocess_target('bnn', predictions, noisy * scale) / scale).unflatten(1, (len(sizes), -1))

    # ---- teachers ----

    def teacher_forward(self, name: str, lq: Tensor) -> Tensor:
        """See StagedModel: the predictions with all sizes, (N, K * C, H, W)."""
        return self.bnn.predict_all(lq, self.choice.sizes)

    def turned_teacher_forward(self, name: str, lq: Tensor) -> Tensor:
        """See StagedModel."""
        return self.bnn.predict_all(lq, [turned(size) for size in self.choice.sizes])

    def num_targets(self, name: str) -> int:
        """See StagedModel."""
        return len(self.choice.sizes)

    def cache_cost(self, name: str) -> float:
        """See StagedModel: a cached prediction is made with all sizes."""
        on_the_fly = 1 if self._draws_one(is_cached=False) else len(self.choice.sizes)
        return (1 + _FUSION_COST * len(self.choice.sizes)) / (1 + _FUSION_COST * on_the_fly)

    def cache_settings(self, name: str) -> dict[str, Any]:
        """See StagedModel."""
        sizes = [list(size) if isinstance(size, tuple) else size for size in self.choice.sizes]
        return {**super().cache_settings(name), 'blind_sizes': sizes}

    def _draws_one(self, is_cached: bool) -> bool:
        draw, is_equal = self.options.teacher_draw, self.options.teacher_weights == 'equal'
        return draw == 'one' or (draw == 'auto' and is_equal and not is_cached)

    # ---- one iteration ----

    def distillation_loss(self, lq: Tensor) -> Tensor:
        """See StagedModel: the mean over all sizes, or over one for each patch."""
        is_cached = 'bnn' in self.cached_targets
        generator = torch.Generator().manual_seed(_seed(self.opt, self.current_iter))
        with self.autocast():
            if self._draws_one(is_cached):
                drawn = torch.randint(len(self.choice.sizes), (len(lq),), generator=generator).tolist()
                targets = self._drawn_targets(lq, drawn)
            else:
                targets = self.pseudo_target('bnn', lq).unflatten(1, (len(self.choice.sizes), -1))
            prediction = self.net(lq)
        targets = targets.float()
        weights = self._weights(targets * (255 / self.img_range))
        if self.options.recharge:
            targets = recharge(targets, lq.float(), generator, len(self.choice.sizes))
        return self.criterion(prediction.float(), targets, weights)

    @torch.no_grad()
    def _drawn_targets(self, lq: Tensor, drawn: Sequence[int]) -> Tensor:
        """(N, 1, C, H, W): the target of the drawn size for each patch."""
        if 'bnn' in self.cached_targets:
            targets = self.pseudo_target('bnn', lq).unflatten(1, (len(self.choice.sizes), -1))
            return torch.stack([target[number][None] for target, number in zip(targets, drawn)])
        features = self.bnn.features(lq)
        predictions = [
            self.bnn.predict([view[n : n + 1] for view in features], lq.shape[-2:], self.choice.sizes[number])
            for n, number in enumerate(drawn)
        ]
        return self.postprocess_target('bnn', torch.cat(predictions), lq)[:, None]

    def _weights(self, targets: Tensor) -> Tensor | None:
        """(N, K, 1, H, W) for targets (N, K, C, H, W) in grey levels; None: 1 everywhere."""
        if self.choice.weights is not None:
            return self.choice.weights(targets)
        if self.options.teacher_weights == 'texture':
            texture = self.options.texture
            return texture_weights(targets, texture.window, texture.lower, texture.upper)
        return None

    # ---- the BNN as a denoiser ----

    def denoise(self, net: nn.Module, lq: Tensor) -> Tensor:
        """See MultiNetworkModel: a BNN as block ``inference`` states, the student in one pass."""
        return subsampled_inference(net, lq, self.inference if isinstance(net, BNN) else SINGLE_PASS)

    def net_file(self, name: str) -> dict[str, Any]:
        """See MultiNetworkModel: with ``inference`` for the BNN, unless it is one plain pass."""
        content = super().net_file(name)
        if name != 'bnn' or self.inference == SINGLE_PASS:
            return content
        return {**content, 'inference': self.inference.model_dump()}


@MODEL_REGISTRY.register()
class ATBSNModel(BlindSizesModel):
    """AT-BSN (CVPR 2024): trained with 9, students of 0, 1, 3, 5, 7, 9 and 11 alike. A BlindSizesModel whose option
    defaults are the paper's."""

    stages = BlindSizesModel.stages
    train_schema = ATBSNTrainOptions


def _resolve_inference(opt: Mapping[str, Any]) -> InferenceConfig:
    """The options' ``inference``; what they leave open is that of the BNN's file, if there is one. Raises UserError."""
    name = 'bnn' if opt['is_train'] else 'g'
    stored = InferenceConfig.from_file(
        pretrained_content(opt, name).get('inference'), f'path.pretrain_network_{name}'
    ).model_dump()
    return InferenceConfig.parse({**stored, **(opt.get('inference') or {})}, 'inference')


def _seed(opt: Mapping[str, Any], iteration: int) -> int:
    """Of the draws of an iteration and process: a resumed run draws as the run that was not stopped."""
    return int(np.random.SeedSequence((opt['manual_seed'], iteration, opt['rank'])).generate_state(1)[0])


def _check_loss(opt: Mapping[str, Any], stage: Stage) -> None:
    """Raise UserError for a loss of one target: it would take several for a batch, without an error."""
    kind = (opt['train']['stages'][stage.name].get('loss') or {}).get('type', stage.loss['type'])
    if 'weights' not in argument_names(LOSS_REGISTRY.get(kind).forward):
        raise UserError(
            f'train.stages.{stage.name}.loss.type: expected a loss of several targets and their weights, such as '
            f'{stage.loss["type"]}, got {kind}'
        )
