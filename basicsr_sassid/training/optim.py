"""Optimisers and schedules from option blocks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.models import lr_scheduler as basicsr_schedulers
from torch import nn
from torch.optim.swa_utils import AveragedModel

from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_keys


def make_optimizer(net: nn.Module, block: Mapping[str, Any], where: str) -> torch.optim.Optimizer:
    """Any optimiser of torch.optim: ``{type: Adam, lr: 3e-4, ...}``. Raises UserError."""
    check_keys(block, _argument_names(torch.optim, block, torch.optim.Optimizer, where), where, required=['lr'])
    kind = getattr(torch.optim, block['type'])
    arguments = {key: value for key, value in block.items() if key != 'type'}
    if 'fused' in inspect.signature(kind).parameters and not arguments.get('foreach'):
        arguments.setdefault('fused', True)  # one kernel a step, not a dozen for each tensor
    try:
        return kind(net.parameters(), **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f'{where}: {error}') from error


def make_scheduler(optimizer: torch.optim.Optimizer, block: Mapping[str, Any], length: int, where: str) -> Any:
    """A schedule of BasicSR or torch, stepped every iteration; its length is the stage's. Raises UserError."""
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
    except (TypeError, ValueError) as error:
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
