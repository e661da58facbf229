"""What BasicSR's own models lack: processes on CPUs, files of the first ESRGAN code and bare state dicts, buffers in
averages and validations, errors for nan and for files that do not fit."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from basicsr_sassid.io.author_checkpoints import has_first_esrgan_names
from basicsr_sassid.io.checkpoint import build_network, load_state, read_weights, state_dict_of
from basicsr_sassid.training.runtime import wrap_distributed
from basicsr_sassid.utils.errors import UserError

_LONGEST = 400  # characters of a list of tensors that do not fit


class StockModelMixin:
    """Placed before SRModel, or a subclass of it, in a class's bases."""

    opt: dict[str, Any]
    device: torch.device
    net_g: nn.Module
    net_g_ema: nn.Module

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """BasicSR's, also for several processes on CPUs."""
        return wrap_distributed(net.to(self.device), self.opt, self.device)

    def load_network(
        self, net: nn.Module, load_path: str | os.PathLike[str], strict: bool = True, param_key: str | None = 'params'
    ) -> None:
        """BasicSR's, also for bare state dicts, and for RRDBNet in the names of the first ESRGAN code.

        Args:
            net: network, wrapped or not.
            load_path: file.
            strict: False loads the tensors that fit and ignores the others.
            param_key: ``params`` or ``params_ema``; ``params`` where the file lacks it.

        Raises:
            UserError: the file is damaged, has no such key, or does not fit the network.
        """
        model: Any = self
        bare: nn.Module = model.get_bare_model(net)
        content = read_weights(load_path)
        key = next((name for name in (param_key, 'params', 'params_ema') if name in content), None)
        state = content[key] if key else content
        if not isinstance(state, Mapping):
            raise UserError(f'{load_path}: expected a state dict in {key!r}, found a {type(state).__name__}')
        is_renamed = has_first_esrgan_names(state) and not has_first_esrgan_names(bare.state_dict())
        if is_renamed or Path(load_path).suffix == '.safetensors':  # which BasicSR's does not read
            names = ', in the names of ESRGAN' if is_renamed else ''
            get_root_logger().info(f'Loading {type(bare).__name__} from {load_path}{names}.')
            load_state(bare, state_dict_of(state, load_path), load_path, strict)
            return
        if all(isinstance(value, Tensor) for value in content.values()):
            param_key = None
        parent: Any = super()
        try:
            parent.load_network(net, load_path, strict, param_key)
        except KeyError as error:
            keys = ', '.join(map(str, list(content)[:5]))
            raise UserError(f'{load_path} has no {param_key!r}; it has {keys}. Set path.param_key_*') from error
        except RuntimeError as error:  # several lines, of which the dry run would print the first, without the sizes
            reason = ' '.join(map(str.strip, str(error).splitlines()))[:_LONGEST]
            raise UserError(f'{load_path} does not fit {type(bare).__name__}. {reason}') from error

    def start_average(self) -> None:
        """The moving average of the generator, ``net_g_ema``, as SRModel has it."""
        model: Any = self
        self.net_g_ema = build_network(self.opt['network_g'], 'network_g').to(self.device).eval()
        path = self.opt['path'].get('pretrain_network_g')
        if path:
            self.load_network(self.net_g_ema, path, self.opt['path'].get('strict_load_g', True), 'params_ema')
        else:
            model.model_ema(0)

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
