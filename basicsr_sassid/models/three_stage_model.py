"""SASSID: Spatially Adaptive Self-Supervised Learning for Real-World Image Denoising.

Li et al., CVPR 2023, arXiv 2303.14934. Written from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from torch import Tensor

from basicsr_sassid.models.staged_model import StagedModel
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.posterior import PosteriorMean
from basicsr_sassid.training.protocols import WholeImageDataset
from basicsr_sassid.training.schema import ThreeStageTrainOptions
from basicsr_sassid.training.stages import Stage, stage_at
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import evenly_spaced

_MOST_MEASURED = 200  # training images whose noise is measured, evenly spaced
_MOST_CROPS = 32  # of them, on which the BNN's error is measured


@MODEL_REGISTRY.register()
class ThreeStageModel(StagedModel):
    """Stage ``bnn``: the BNN is trained to predict each pixel from outside its blind neighbourhood. Stage ``lan``: the
    LAN is trained to match the BNN's prediction from the pixels nearby. Stage ``unet``: the U-Net learns from the BNN
    where the image is flat and from the LAN where it is textured.
    """

    stages = (
        Stage('bnn', network='bnn', loss={'type': 'L1Loss'}),
        Stage('lan', network='lan', loss={'type': 'SelectiveL1Loss'}, teachers=('bnn',), cached=('bnn',)),
        Stage('unet', network='g', loss={'type': 'TwoTeacherL1Loss'}, teachers=('bnn', 'lan'), cached=('bnn',)),
    )
    train_schema = ThreeStageTrainOptions
    options: ThreeStageTrainOptions

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """See StagedModel; warns of a LAN whose receptive field exceeds the blind neighbourhood."""
        resolved = super().validate_options(opt)
        patch = opt['datasets']['train'].get('patch_size')
        blind = network_argument(opt, 'bnn', 'blind_size')
        receptive = (
            network_argument(opt, 'lan', 'receptive_size')
            if any(stage.network == 'lan' for stage in cls.stages)
            else None
        )
        if blind is not None and patch is not None and blind >= 2 * patch - 1:
            raise UserError(
                f'network_bnn.blind_size: expected less than twice datasets.train.patch_size {patch}, got {blind}: '
                'the whole patch would be hidden from each of its pixels'
            )
        if receptive is not None and blind is not None and receptive > blind:
            warnings.warn(
                f'network_lan.receptive_size {receptive} is larger than network_bnn.blind_size {blind}: '
                "what both see, the LAN learns to repeat, the BNN's noise included.",
                stacklevel=2,
            )
        return resolved

    @classmethod
    def loss_defaults(cls, opt: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """See StagedModel: the distillation losses share ``train.texture``."""
        if stage.name == 'bnn':
            return {}
        return {**(opt['train'].get('texture') or {}), 'img_range': opt.get('img_range', 255)}

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.noise: NoiseModel | None = None
        self.posterior: PosteriorMean | None = None
        self.use_posterior = self.is_calibrated = False

    def check_dataset(self, dataset: Any) -> None:
        """See MultiNetworkModel; also for ``train.posterior``."""
        super().check_dataset(dataset)
        if self.options.posterior and not isinstance(dataset, WholeImageDataset):
            raise UserError(f'train.posterior needs NoisyImageDataset, not {type(dataset).__name__}. Set it to false.')

    # ---- the posterior mean of the BNN's prediction and the noisy image ----

    def prepare_stage(self, current_iter: int, dataset: Any) -> None:
        """See StagedModel; before the first stage with a teacher, decide whether its targets are posterior means."""
        stage = self.stages[stage_at(current_iter, self.stage_iters)]
        if self.options.posterior and self.posterior is None:
            self.posterior = PosteriorMean(self.measure_noise(dataset))
        if stage.teachers and self.stage is not stage:
            self.finish_stage()  # the BNN predicts as for its targets
        if self.posterior and stage.teachers and not self.is_calibrated:
            self._calibrate_posterior(self.posterior, dataset)
        self.prepare_targets(stage, dataset)
        super().prepare_stage(current_iter, dataset)

    def prepare_targets(self, stage: Stage, dataset: Any) -> None:
        """Decide what else the targets of a stage depend on, when its teachers are trained: here nothing."""

    def measure_noise(self, dataset: WholeImageDataset) -> NoiseModel:
        """The noise of the training images, measured once."""
        if self.noise is None:
            self.check_dataset(dataset)
            measured = evenly_spaced(range(len(dataset)), _MOST_MEASURED)
            self.noise = estimate_noise(dataset.image(index) for index in measured)
            get_root_logger().info(
                f'Noise of {len(measured)} training images: sigma '
                f'{", ".join(f"{value:.2f}" for value in self.noise.sigma)} grey levels'
            )
        return self.noise

    def sample_crops(self, dataset: WholeImageDataset, most: int) -> list[np.ndarray]:
        """Crops of the training images of the patch size, evenly spaced: (H, W, 3) float32 in [0, 1]."""
        side = dataset.patch_size
        measured = evenly_spaced(range(len(dataset)), _MOST_MEASURED)
        return [dataset.image(index)[:side, :side] for index in evenly_spaced(measured, most)]

    def _calibrate_posterior(self, posterior: PosteriorMean, dataset: WholeImageDataset) -> None:
        """Use the posterior mean; with ``auto``, where the BNN's error exceeds the noise."""
        self.is_calibrated = self.use_posterior = True
        if self.options.posterior != 'auto':
            return
        lq = torch.from_numpy(np.stack(self.sample_crops(dataset, _MOST_CROPS))).permute(0, 3, 1, 2).to(self.device)
        with torch.no_grad(), self.autocast():
            predictions = torch.cat([self.nets['bnn'](crop[None] * self.img_range).float() for crop in lq])
        error, variance = posterior.compare(predictions * (255 / self.img_range), lq * 255)
        self.use_posterior = error > variance
        targets = 'blended with the noisy images' if self.use_posterior else 'used as they are'
        get_root_logger().info(
            f'The error of the BNN is {max(error, 0) ** 0.5:.1f} grey levels, the noise '
            f'{variance**0.5:.1f}: its predictions are {targets}'
        )

    def cache_settings(self, name: str) -> dict[str, Any]:
        """See StagedModel."""
        if name != 'bnn' or not self.use_posterior or self.posterior is None:
            return {}
        return {'posterior': self.posterior.noise.to_dict()}

    def postprocess_target(self, name: str, prediction: Tensor, lq: Tensor) -> Tensor:
        """See StagedModel: the posterior mean of the BNN's prediction and the noisy image."""
        if name != 'bnn' or not self.use_posterior or self.posterior is None:
            return prediction
        scale = 255 / self.img_range
        return self.posterior(prediction * scale, lq * scale) / scale


def network_argument(opt: Mapping[str, Any], network: str, argument: str) -> Any:
    """An argument of a network as it will be built; None where the network has no such argument."""
    block = opt[f'network_{network}']
    parameter = inspect.signature(ARCH_REGISTRY.get(block['type'])).parameters.get(argument)
    return parameter and block.get(argument, parameter.default)
