"""Stages as data: the rows of a method's table, their options, and what a running stage consists of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from basicsr.losses import build_loss
from basicsr.utils import get_root_logger
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.io.checkpoint import build_network, load_weights, read_weights
from basicsr_sassid.training.optim import make_average, make_optimizer, make_scheduler
from basicsr_sassid.training.schema import StageOptions, TrainOptions
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_keys, check_range, check_registered

_MAX_PARAMETERS = 10**9  # 16 GB in training


@dataclasses.dataclass(frozen=True)
class Stage:
    """One row of a method's table.

    Attributes:
        name: key in the option block ``train.stages``.
        network: the network it trains: option block ``network_<network>``, files ``net_<network>_*.pth``.
        loss: default option block of its loss, called as ``loss(prediction, *targets)``.
        teachers: the networks whose predictions are the targets, in order; without any, the noisy image is the target.
        cached: those of them that can be run once per whole image, since their prediction on a patch is that patch of
            their prediction on the image; nearly so for a network that averages over its whole input, which is run in
            windows of the patch size.
    """

    name: str
    network: str
    loss: dict[str, Any]
    teachers: tuple[str, ...] = ()
    cached: tuple[str, ...] = ()


class StageComponents(NamedTuple):
    """Optimiser, schedule and loss of a running stage."""

    optimizer: torch.optim.Optimizer
    scheduler: Any
    criterion: nn.Module


class RunningStage:
    """The stage in training: its network, optimiser, schedule, loss, gradient scaler and average.

    Args:
        stage: row of the method's table.
        net: the bare network.
        wrapped: the network that is called in training: compiled, or wrapped for several processes.
        components: of :func:`build_stage_components`.
        train: the block ``train``.
        dtype: of the forward passes.
    """

    def __init__(
        self,
        stage: Stage,
        net: nn.Module,
        wrapped: nn.Module,
        components: StageComponents,
        train: TrainOptions,
        dtype: torch.dtype,
    ) -> None:
        device = next(net.parameters()).device
        self.stage, self.net, self.wrapped, self.grad_clip = stage, net, wrapped, train.grad_clip
        self.optimizer, self.scheduler = components.optimizer, components.scheduler
        self.criterion = components.criterion.to(device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.ema = make_average(net, train.ema_decay)

    @property
    def best_net(self) -> nn.Module:
        """The average of the weights where there is one, else the network."""
        return self.net if self.ema is None else self.ema.module

    def step(self, loss: Tensor) -> None:
        """Descend one step along the gradient of a loss."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if self.grad_clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.wrapped.parameters(), self.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.net)

    def finish(self) -> None:
        """Freeze the network; its average, if there is one, takes its place."""
        if self.ema is not None:
            self.net.load_state_dict(self.ema.module.state_dict())
        self.net.requires_grad_(False).eval()

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed stage needs beside the networks' weights."""
        return {
            'stage': self.stage.name,
            'scaler': self.scaler.state_dict(),
            'ema': self.ema and on_cpu(self.ema.state_dict()),
            'optimizers': [self.optimizer.state_dict()],
            'schedulers': [self.scheduler.state_dict()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`. Raises RuntimeError, KeyError or ValueError if it does not fit."""
        if self.ema is not None and state['ema'] is not None:
            self.ema.load_state_dict(state['ema'])
        self.optimizer.load_state_dict(state['optimizers'][0])
        self.scheduler.load_state_dict(state['schedulers'][0])
        self.scaler.load_state_dict(state['scaler'])


def log_stage(stage: Stage, length: int, dtype: torch.dtype, device: torch.device) -> None:
    """Write the start of a stage to the log."""
    teachers = f', teachers: {", ".join(stage.teachers)}' if stage.teachers else ''
    get_root_logger().info(
        f'Stage {stage.name}: {length} iterations train network_{stage.network}{teachers}; '
        f'{str(dtype).removeprefix("torch.")} on {device}'
    )


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict on the CPU."""
    return {name: value.cpu() for name, value in state.items()}


def stage_at(iteration: int, stage_iters: Sequence[int]) -> int:
    """Index of the stage of ``iteration`` (from 1); past the end, the last stage that has any iteration."""
    last = 0
    for index, length in enumerate(stage_iters):
        if length > 0:
            last = index
            if iteration <= length:
                return index
        iteration -= length
    return last


def check_parameters(block: Mapping[str, Any], where: str) -> None:
    """Raise UserError for a network without parameters or with so many that building it would fill the memory."""
    try:
        with torch.device('meta'):  # shapes alone
            net = ARCH_REGISTRY.get(block['type'])(**{key: value for key, value in block.items() if key != 'type'})
        count = sum(parameter.numel() for parameter in net.parameters())
    except Exception:  # not every network can be built so; the real one reports what is wrong
        return
    if not 0 < count <= _MAX_PARAMETERS:
        raise UserError(
            f'{where}: expected a network of 1 to {_MAX_PARAMETERS:,} parameters, these options give {count:,}'
        )


def build_and_load(opt: Mapping[str, Any], name: str) -> nn.Module:
    """network_<name> with the weights that ``path`` names, if any, on the CPU. Raises UserError."""
    net = build_network(opt.get(f'network_{name}'), f'network_{name}')
    path = opt['path'].get(f'pretrain_network_{name}')
    if path:
        load_weights(
            net, path, key=opt['path'].get(f'param_key_{name}'), strict=opt['path'].get(f'strict_load_{name}', True)
        )
    return net


def pretrained_content(opt: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Content of the file ``path.pretrain_network_<name>``; empty where none is given. Raises UserError."""
    path = opt['path'].get(f'pretrain_network_{name}')
    return read_weights(path) if path else {}


def build_stage_components(net: nn.Module, stage: StageOptions, loss: Mapping[str, Any], where: str) -> StageComponents:
    """Build a stage's optimiser, schedule and loss. ``where``: path of its option block. Raises UserError."""
    optimizer = make_optimizer(net, stage.optim or {}, f'{where}.optim')
    scheduler = make_scheduler(optimizer, stage.scheduler or {}, stage.iter, f'{where}.scheduler')
    block = {**loss, **(stage.loss or {})}
    check_registered(LOSS_REGISTRY, block, f'{where}.loss')
    if 'loss_weight' in block:
        check_range(block['loss_weight'], f'{where}.loss.loss_weight', above=0)
    try:
        return StageComponents(optimizer, scheduler, build_loss(block))
    except Exception as error:  # a loss of anybody's
        raise UserError(f'{where}.loss: {error}') from error


def validate_stages(
    opt: Mapping[str, Any],
    train: TrainOptions,
    known: Sequence[Stage],
    active: Sequence[Stage],
    loss_of: Callable[[Stage], Mapping[str, Any]],
) -> int:
    """Check all stages, and build each one's components, so that an error in the last stage is reported before the
    first one starts.

    Args:
        opt: all options.
        train: its block ``train``.
        known, active: all stages of the method, and those that these options train.
        loss_of: the default loss block of a stage.

    Returns:
        The total number of iterations.

    Raises:
        UserError: unknown, missing or misplaced stages; a network, loss, optimiser or schedule that cannot be built.
    """
    check_keys(train.stages, [stage.name for stage in known], 'train.stages')
    names = [stage.name for stage in active]
    check_keys(train.stages, names, 'train.stages', required=names)
    if list(train.stages) != names:
        raise UserError(
            f'train.stages: expected the order {", ".join(names)} (each stage learns from those before '
            f'it), got {", ".join(train.stages)}'
        )
    total = sum(stage.iter for stage in train.stages.values())
    if train.total_iter not in (None, total):
        raise UserError(
            f"train.total_iter: {train.total_iter} is not the sum of the stages' iter, {total}. Leave it out."
        )
    if total == 0:
        raise UserError('train.stages: every iter is 0, there is nothing to train')
    for stage in active:
        _validate_stage(opt, train.stages[stage.name], stage, loss_of(stage))
    return total


def _validate_stage(opt: Mapping[str, Any], options: StageOptions, stage: Stage, loss: Mapping[str, Any]) -> None:
    where, pretrained = f'train.stages.{stage.name}', f'path.pretrain_network_{stage.network}'
    if options.iter == 0 and not opt['path'].get(f'pretrain_network_{stage.network}'):
        raise UserError(f'{where}.iter is 0, so network_{stage.network} must be given: set {pretrained} to its .pth')
    if options.iter > 0:
        for key in ('optim', 'scheduler'):
            if getattr(options, key) is None:
                raise UserError(f'{where}: key {key!r} is missing.')
    check_parameters(opt.get(f'network_{stage.network}') or {}, f'network_{stage.network}')
    net = build_and_load(opt, stage.network)
    found, img_range = pretrained_content(opt, stage.network).get('img_range'), opt.get('img_range', 255)
    if found not in (None, img_range):
        raise UserError(
            f'{pretrained}: these weights take white as {found:g}, and img_range is {img_range:g}. Set '
            f'img_range: {found:g}'
        )
    if options.iter > 0:
        build_stage_components(net, options, loss, where)
