"""StagedModel: networks trained one after another, each with its own optimiser, schedule, loss and frozen teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from basicsr_sassid.training.protocols import WholeImageDataset
from basicsr_sassid.training.pseudo_targets import PseudoTargetModel
from basicsr_sassid.training.schema import TrainOptions
from basicsr_sassid.training.stages import (
    RunningStage,
    Stage,
    build_stage_components,
    log_stage,
    stage_at,
    validate_stages,
)
from basicsr_sassid.utils.device import choose_dtype
from basicsr_sassid.utils.errors import UserError


class StagedModel(PseudoTargetModel):
    """Base of the methods that train their networks in stages. A subclass is a table of rows: :attr:`stages`.

    Attributes:
        stages: all stages of the method; an instance has those that its options train.
        train_schema: the typed block ``train``.
        takes_inference: whether the options have a block ``inference``.
    """

    stages: Sequence[Stage] = ()
    train_schema: ClassVar[type[TrainOptions]] = TrainOptions
    takes_inference: ClassVar[bool] = False

    # ---- options ----

    @classmethod
    def validate_options(cls, opt: dict[str, Any]) -> dict[str, Any]:
        """Check all options before a file is written; return block ``train`` with its defaults. Raises UserError."""
        if opt.get('inference') and not cls.takes_inference:
            raise UserError(f'inference: {cls.__name__} has no such block')
        train = cls.train_schema.parse(opt['train'], 'train')
        total = validate_stages(
            opt,
            train,
            cls.stages,
            cls.active_stages(opt),
            lambda stage: {**stage.loss, **cls.loss_defaults(opt, stage)},
        )
        return {**train.model_dump(), 'total_iter': total}

    @classmethod
    def active_stages(cls, opt: Mapping[str, Any]) -> Sequence[Stage]:
        """The rows of the table that these options train."""
        return cls.stages

    @classmethod
    def loss_defaults(cls, opt: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
        """Loss arguments that the method takes from elsewhere in its options."""
        return {}

    def __init__(self, opt: dict[str, Any]) -> None:
        self.stages = self.active_stages(opt) if opt['is_train'] else ()
        names = dict.fromkeys(name for stage in self.stages for name in (*stage.teachers, stage.network)) or ['g']
        super().__init__(opt, names)
        self.current_iter = 0
        if self.is_train:
            self.options = self.train_schema.model_validate(opt['train'])
            self.stage_iters = [self.options.stages[stage.name].iter for stage in self.stages]
            self.dtype = choose_dtype(self.options.precision, self.device)

    # ---- stages ----

    def stage_ends(self) -> list[int]:
        """The last iteration of each stage."""
        return np.cumsum(self.stage_iters).tolist()

    def prepare_stage(self, current_iter: int, dataset: Any) -> None:
        """Before the batches of ``current_iter``'s stage are drawn: build the caches of its teachers."""
        stage = self.stages[stage_at(current_iter, self.stage_iters)]
        if self.stage is not stage:
            self.finish_stage()
        names = self.cached_teachers(stage, dataset)
        if isinstance(dataset, WholeImageDataset):
            dataset.teachers = {name: self.teacher_cache(name, dataset) for name in names}

    def start_stage(self, index: int) -> None:
        """Freeze what was trained; set up the network, optimiser, schedule and loss of stage ``index``."""
        self.finish_stage()
        stage, options = self.stages[index], self.options
        net = self.nets[stage.network].train().requires_grad_(True)
        components = build_stage_components(
            net,
            options.stages[stage.name],
            {**stage.loss, **self.loss_defaults(self.opt, stage)},
            f'train.stages.{stage.name}',
        )
        compiled: Any = torch.compile(net) if options.compile else net
        self.running = RunningStage(stage, net, self.model_to_device(compiled), components, options, self.dtype)
        self.net, self.criterion = self.running.wrapped, self.running.criterion
        self.optimizers, self.schedulers = [components.optimizer], [components.scheduler]  # BaseModel's names
        log_stage(stage, self.stage_iters[index], self.dtype, self.device)

    def finish_stage(self) -> None:
        """Freeze the network of the running stage."""
        if self.running:
            self.running.finish()
            self.running = None

    # ---- one iteration ----

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Start the stage of ``current_iter`` (from 1) or step its schedule. For a warm-up use OneCycleLR."""
        index = stage_at(current_iter, self.stage_iters)
        if self.stage is not self.stages[index]:
            self.start_stage(index)
        else:
            self.active.scheduler.step()

    def training_loss(self, lq: Tensor) -> Tensor:
        """Loss of a stage without teachers on noisy patches, (N, C, H, W) in [0, img_range]."""
        with self.autocast():
            prediction = self.net(lq)
        return self.criterion(prediction.float(), lq.float())

    def distillation_loss(self, lq: Tensor) -> Tensor:
        """Loss of a stage with teachers, likewise."""
        with self.autocast():
            targets = [self.pseudo_target(name, lq) for name in self.active.stage.teachers]
            prediction = self.net(lq)
        return self.criterion(prediction.float(), *(target.float() for target in targets))

    def optimize_parameters(self, current_iter: int) -> None:
        """One step of the running stage."""
        self.current_iter = current_iter
        lq = self.lq * self.img_range
        loss = self.distillation_loss(lq) if self.active.stage.teachers else self.training_loss(lq)
        self.active.step(loss)
        self.loss = loss.detach()

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`save`. Raises UserError if it is of another set-up."""
        try:
            index = [stage.name for stage in self.stages].index(resume_state['stage'])
            self.restore(resume_state)
            self.start_stage(index)
            self.active.load_state_dict(resume_state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f'resume: the training state does not fit these options ({str(error).splitlines()[0]}). '
                'Resume with the options of the first run, or start anew.'
            ) from error
        if index != stage_at(resume_state['iter'], self.stage_iters):
            raise UserError(
                f'resume: iteration {resume_state["iter"]} was in stage {resume_state["stage"]}, which '
                f'train.stages now places elsewhere. Resume with the iter of the first run, or start anew.'
            )
