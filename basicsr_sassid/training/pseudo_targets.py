"""PseudoTargetModel: the targets that frozen teachers give, predicted for each patch or read from a cache."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr_sassid.data.teacher_cache import TeacherCache
from basicsr_sassid.ops.sliding_window import sliding_window_predict
from basicsr_sassid.training.base import MultiNetworkModel
from basicsr_sassid.training.protocols import WholeImageDataset
from basicsr_sassid.training.stages import Stage
from basicsr_sassid.training.teachers import (
    build_teacher_cache,
    cache_folder,
    patch_pixels,
    should_cache,
    whole_image_target,
)


class PseudoTargetModel(MultiNetworkModel):
    """Base of StagedModel: what the teachers of a stage predict. A method overrides the hooks.

    Attributes:
        stage_iters: iterations of each stage.
        dtype: of the forward passes in training.
        caches: teacher -> the cache of its targets.
    """

    stage_iters: Sequence[int]
    dtype: torch.dtype

    def __init__(self, opt: dict[str, Any], names: Iterable[str]) -> None:
        super().__init__(opt, names)
        self.caches: dict[str, TeacherCache] = {}

    # ---- hooks ----

    def teacher_forward(self, name: str, lq: Tensor) -> Tensor:
        """Prediction of teacher ``name`` for noisy patches, both (N, C, H, W) in [0, img_range]."""
        return self.nets[name](lq)

    def turned_teacher_forward(self, name: str, lq: Tensor) -> Tensor:
        """The same for patches whose rows are columns of the photograph: another prediction where a teacher's blind
        neighbourhood is a rectangle."""
        return self.teacher_forward(name, lq)

    def postprocess_target(self, name: str, prediction: Tensor, lq: Tensor) -> Tensor:
        """The target that a teacher's prediction becomes: shapes and units of :meth:`teacher_forward`."""
        return prediction

    def cache_settings(self, name: str) -> dict[str, Any]:
        """What else a teacher's targets depend on, of JSON's types."""
        return {}

    def num_targets(self, name: str) -> int:
        """Images in a prediction of teacher ``name``: of a BNN one for each blind size."""
        return 1

    def cache_cost(self, name: str) -> float:
        """Cost of a cached prediction of teacher ``name``, as a multiple of an on-the-fly prediction's."""
        return 1.0

    # ---- targets ----

    def autocast(self) -> torch.autocast:
        """The precision of the forward passes in training."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def pseudo_target(self, name: str, lq: Tensor) -> Tensor:
        """The target of teacher ``name`` for noisy patches, from the cache if it is there."""
        if name in self.cached_targets:
            return self.cached_targets[name] * self.img_range
        return self.postprocess_target(name, self.teacher_forward(name, lq), lq)

    def cached_teachers(self, stage: Stage, dataset: Any, quiet: bool = False) -> list[str]:
        """The teachers of a stage whose predictions are cached; ``quiet``: see :func:`should_cache`."""
        return [
            name
            for name in stage.cached
            if should_cache(
                self.options,
                name,
                dataset,
                patch_pixels(self.opt, self.stages, self.stage_iters, name),
                self.cache_cost(name),
                quiet,
            )
        ]

    def teacher_cache(self, name: str, dataset: WholeImageDataset) -> TeacherCache:
        """The cache of teacher ``name`` for a training set, built where it is missing. Raises UserError."""
        if name in self.caches:
            return self.caches[name]
        settings = {
            'network': self.opt[f'network_{name}'],
            'window': dataset.patch_size,
            'dtype': str(self.dtype),
            'ensemble': self.options.teacher_ensemble,
            'img_range': self.img_range,
            **self.cache_settings(name),
        }
        folder = None
        if self.options.teacher_cache != 'memory':
            folder = cache_folder(self.opt['path']['experiments_root'], name, self.nets[name], dataset, settings)

        def predict_windows(image: Tensor) -> Tensor:
            with self.autocast():
                return sliding_window_predict(
                    functools.partial(self.teacher_forward, name),
                    image,
                    dataset.patch_size,
                    self.options.teacher_ensemble,
                    self.opt['datasets']['train']['batch_size_per_gpu'],
                    functools.partial(self.turned_teacher_forward, name),
                )

        def predict(image: np.ndarray) -> np.ndarray:
            postprocess = functools.partial(self.postprocess_target, name)
            return whole_image_target(predict_windows, postprocess, image, self.img_range, self.device)

        cache = TeacherCache(folder, dataset.sizes, 3 * self.num_targets(name))
        build_teacher_cache(
            name, predict, dataset, cache, self.opt['rank'], self.opt['world_size'], not self.opt.get('quiet')
        )
        self.caches[name] = cache
        return cache
