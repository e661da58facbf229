"""Optimisers and schedules from option blocks."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.models import lr_scheduler as basicsr_schedulers
from torch import nn
from torch.optim.swa_utils import AveragedModel

from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_keys, check_range

_MAX_TRIED = 1000  # steps of a schedule
# bounds that torch does not check in all optimisers: negative decay and momentum diverge without an error
_BOUNDS: dict[str, dict[str, float]] = {
    'lr': {'above': 0},
    'weight_decay': {'least': 0},
    'momentum': {'least': 0, 'below': 1},
    'dampening': {'least': 0, 'below': 1},
    'eps': {'above': 0},
    'alpha': {'least': 0},
}
_SCHEDULE_BOUNDS: dict[str, dict[str, float]] = {
    'max_lr': {'above': 0},
    'base_lr': {'above': 0},
    'eta_min': {'least': 0},
    'gamma': {'above': 0},
}


def make_optimizer(net: nn.Module, block: Mapping[str, Any], where: str) -> torch.optim.Optimizer:
    """Any optimiser of torch.optim: ``{type: Adam, lr: 3e-4, ...}``. Raises UserError."""
    check_keys(block, _argument_names(torch.optim, block, torch.optim.Optimizer, where), where, required=['lr'])
    _check_bounds(block, _BOUNDS, where)
    if 'betas' in block:
        _check_betas(block['betas'], f'{where}.betas')
    kind = getattr(torch.optim, block['type'])
    arguments = {key: value for key, value in block.items() if key != 'type'}
    if 'fused' in inspect.signature(kind).parameters and not arguments.get('foreach'):
        arguments.setdefault('fused', True)  # one kernel a step, not a dozen for each tensor
    try:
        return kind(net.parameters(), **arguments)
    except Exception as error:  # torch raises anything on arguments of other types
        raise UserError(f'{where}: {error}') from error


def _check_betas(betas: object, where: str) -> None:
    if not isinstance(betas, list | tuple) or len(betas) < 2:
        raise UserError(f'{where}: expected a list of numbers such as [0.9, 0.999], got {betas!r}')
    for number, beta in enumerate(betas):
        check_range(beta, f'{where}[{number}]', least=0, below=1)


def make_scheduler(optimizer: torch.optim.Optimizer, block: Mapping[str, Any], length: int, where: str) -> Any:
    """A schedule of BasicSR or torch, stepped every iteration; its length is the stage's. Raises UserError."""
    if not isinstance(block, Mapping):
        raise UserError(f'{where}: expected a block with a type, got {block!r}')
    _check_bounds(block, _SCHEDULE_BOUNDS, where)
    _try_schedule(block, optimizer.param_groups[0]['lr'], min(length, _MAX_TRIED), where)
    return _build_schedule(optimizer, block, length, where)


def _check_bounds(block: Mapping[str, Any], bounds: Mapping[str, Mapping[str, float]], where: str) -> None:
    for key in bounds.keys() & block.keys():
        check_range(block[key], f'{where}.{key}', **bounds[key])


def _try_schedule(block: Mapping[str, Any], lr: float, length: int, where: str) -> None:
    """Step a schedule of a short stage over its whole length. Raises UserError: a rate is negative or not finite."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr, momentum=0.9)
    schedule = _build_schedule(optimizer, copy.deepcopy(dict(block)), max(length, 1), where)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for step in range(length - 1):
            rate = optimizer.param_groups[0]['lr']
            if not (isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0):
                raise UserError(
                    f'{where}: the learning rate becomes {rate:g} (step {step} of {length}). Correct its keys.'
                )
            try:
                optimizer.step()
                schedule.step()
            except Exception as error:  # of schedules of anybody's
                raise UserError(f'{where}: step {step} of {length} fails: {error}') from error


def _build_schedule(optimizer: torch.optim.Optimizer, block: Mapping[str, Any], length: int, where: str) -> Any:
    source = basicsr_schedulers if hasattr(basicsr_schedulers, str(block.get('type'))) else torch.optim.lr_scheduler
    check_keys(block, _argument_names(source, block, torch.optim.lr_scheduler.LRScheduler, where), where)
    lengths = {
        'CosineAnnealingLR': {'T_max': length},
        'OneCycleLR': {'total_steps': length},
        'CosineAnnealingRestartLR': {'periods': [length]},
    }
    arguments = {**lengths.get(block['type'], {}), **{key: value for key, value in block.items() if key != 'type'}}
    try:
        return getattr(source, block['type'])(optimizer, **arguments)
    except Exception as error:  # torch raises anything on arguments of other types
        raise UserError(f'{where}: {error}') from error


def _argument_names(module: Any, block: object, base: type, where: str) -> list[str]:
    """The option keys of the class that ``block['type']`` names in ``module``."""
    choices = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value is not base
        and name[0] != '_'
        and name != 'LBFGS'
    ]  # which needs a closure that evaluates the loss again
    if not isinstance(block, Mapping) or block.get('type') not in choices:
        raise UserError(
            f'{where}.type: expected one of {", ".join(sorted(choices))}, got '
            f'{block.get("type") if isinstance(block, Mapping) else block!r}'
        )
    names = inspect.signature(getattr(module, block['type'])).parameters
    return ['type', *(name for name in names if name not in ('params', 'optimizer'))]


def make_average(net: nn.Module, decay: float) -> AveragedModel | None:
    """Exponential moving average of the weights; None with decay 0.

    The decay grows from 0.1 to ``decay`` in the beginning, so that the random initial weights do not persist.
    """
    if decay == 0:
        return None
    return AveragedModel(
        net, avg_fn=lambda average, new, seen: average.lerp(new, 1 - min(decay, (1 + float(seen)) / (10 + float(seen))))
    )
