"""What BasicSR's own models lack: processes on CPUs, buffers in averages and validations, an error for nan."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from basicsr_sassid.training.runtime import wrap_distributed
from basicsr_sassid.utils.errors import UserError


class StockModelMixin:
    """Placed before SRModel, or a subclass of it, in a class's bases."""

    opt: dict[str, Any]
    device: torch.device
    net_g: nn.Module
    net_g_ema: nn.Module

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """BasicSR's, also for several processes on CPUs."""
        return wrap_distributed(net.to(self.device), self.opt, self.device)

    def model_ema(self, decay: float = 0.999) -> None:
        """BasicSR's, which leaves the statistics of batch normalisation as they were at first."""
        model: Any = super()
        model.model_ema(decay)
        bare: Any = self
        for average, buffer in zip(self.net_g_ema.buffers(), bare.get_bare_model(self.net_g).buffers()):
            average.copy_(buffer)

    def test(self) -> None:
        """BasicSR's, on the bare network: the first process validates, and must not wait for the others' buffers."""
        model: Any = self
        wrapped, self.net_g = self.net_g, model.get_bare_model(self.net_g)
        try:
            parent: Any = super()
            parent.test()
        finally:
            self.net_g = wrapped

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last iteration. Raises UserError if one is not finite."""
        parent: Any = super()
        log: dict[str, float] = parent.get_current_log()
        for name, value in log.items():
            if self.opt['rank'] == 0 and not math.isfinite(value):
                raise UserError(
                    f'train: {name} is {value}. Lower the learning rate or the weight of this loss; then start again '
                    'with --auto_resume.'
                )
        return log
