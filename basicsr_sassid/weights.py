"""Networks from option blocks, and weights from files: ours, BasicSR's, the authors'."""
from __future__ import annotations

import inspect
import json
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network as _build_network
from basicsr.utils.registry import ARCH_REGISTRY
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from basicsr_sassid._checks import UserError, check_choice, check_keys, check_number, check_registered, existing
from basicsr_sassid._files import written_whole
from basicsr_sassid.archs.official_util import describe_state, from_official, unwrapped
from basicsr_sassid.archs.subsample_util import REFINEMENTS, denoise_in_passes


def build_network(block: dict | None, where: str) -> nn.Module:
    """BasicSR's build_network, with errors that name the option. Raises UserError."""
    if block is None:
        raise UserError(f'{where}: the block is missing from the options')
    check_registered(ARCH_REGISTRY, block, where)
    try:
        return _build_network(block)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f'{where}: {error}') from error


def check_passes(block: object, where: str) -> None:
    """Refuse arguments that :func:`denoise_in_passes` does not take. Raises UserError that names ``where``."""
    check_keys(block, list(inspect.signature(denoise_in_passes).parameters)[2:], where)
    check_choice(block.get('refine', 'none'), REFINEMENTS, f'{where}.refine')
    check_choice(block.get('by_channel', False), (True, False), f'{where}.by_channel')
    for key, least in (('stride', 1), ('parts', 0), ('mosaic_pad', 0), ('times', 1), ('multiple_of', 1), ('seed', 0)):
        if key in block and not (key == 'mosaic_pad' and block[key] is None):
            check_number(block[key], least, f'{where}.{key}')
    if block.get('parts') == 1:
        raise UserError(f'{where}.parts: 1 would hide the whole image; 2 or more, or 0 for a network that sees all')
    share = block.get('share', 0)
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UserError(f'{where}.share: expected a number between 0 and 1, got {share!r}')


def read_weights(path: str | os.PathLike) -> dict:
    """What a weights file holds, on the CPU. Raises UserError if it is missing, damaged or no weights file."""
    path = existing(path, 'weights')
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, ValueError) as error:
        raise UserError(f'{path} is no file of weights, or damaged: {str(error).splitlines()[0]}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} is no file of weights: it holds a {type(content).__name__}')
    state, use = unwrapped(content)
    return {'params': state, **use} if use else content


def _read_safetensors(path: Path) -> dict:
    try:
        with safe_open(path, 'pt') as file:
            card, params = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings = {key: json.loads(card[key]) for key in ('network', 'img_range', 'inference') if key in card}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f'{path} is no file of weights, or damaged: {str(error).splitlines()[0]}') from error
    return {'params': params, **settings}


def write_safetensors(state: dict[str, Tensor], card: dict[str, Any], path: str | os.PathLike) -> None:
    """Write weights with a model card, each value of it as JSON, into the file's metadata.

    ``card`` holds ``network`` and ``img_range``, from which :class:`Denoiser` builds the network, and what else is to
    be known. Raises UserError if it can't be written.
    """
    with written_whole(path) as partial:
        try:
            save_file({name: value.contiguous() for name, value in state.items()}, partial,
                      {key: json.dumps(value) for key, value in card.items()})
        except SafetensorError as error:  # of a full disk
            raise OSError(str(error)) from error


def state_dict_of(content: dict, path: str | os.PathLike, key: str | None = None) -> dict[str, Tensor]:
    """The state dict in what :func:`read_weights` gave, under our names.

    ``key``: ``'params'`` or ``'params_ema'``; by default the average where there is one.
    """
    wrapped = [name for name in ('params_ema', 'params') if name in content]
    if key is not None and wrapped and key not in wrapped:
        raise UserError(f'{path} has no {key!r}; it has {", ".join(wrapped)}')
    state = content[key or wrapped[0]] if wrapped else content
    state = {name.removeprefix('module.').removeprefix('_orig_mod.'): value for name, value in state.items()}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f'{path} holds no weights (a state dict of tensors); found the keys '
                        f'{", ".join(map(str, list(state)[:5]))}')
    try:
        return from_official(state)
    except ValueError as error:
        raise UserError(f'{path} is damaged or no checkpoint of the authors: {error}') from error


def load_weights(net: nn.Module, path: str | os.PathLike, key: str | None = None, strict: bool = True) -> None:
    """Load weights into a network, whoever wrote the file: told by its content.

    Args:
        net: the network.
        path: a ``.pth`` of ours or BasicSR's (``params``, ``params_ema``), a bare state dict, or a checkpoint of the
            SASSID authors (BNN.pth, LAN.pth, UNet.pth).
        key: ``'params'`` or ``'params_ema'``; by default the average where there is one.
        strict: False loads what fits and leaves out the rest.

    Raises:
        UserError: no such file, not a weights file, or it does not fit: what is missing, not known or of another size
            is named.
    """
    load_state(net, state_dict_of(read_weights(path), path, key), path, strict)


def load_state(net: nn.Module, state: dict[str, Tensor], path: str | os.PathLike, strict: bool = True) -> None:
    """:func:`load_weights` with a state dict that was read already; ``path`` is for the error."""
    own = net.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    resized = [f'{name} is {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the network'
               for name in own if name in state and state[name].shape != own[name].shape]
    if strict and (missing or unknown or resized):
        kinds = (('missing from the file', missing), ('not in the network', unknown), ('of another size', resized))
        detail = '; '.join(f'{kind}: {", ".join(names[:3])}' + (f' and {len(names) - 3} more' if len(names) > 3 else '')
                           for kind, names in kinds if names)
        raise UserError(f'{path} does not fit {type(net).__name__}. The file looks like {describe_state(state)}; the '
                        f'network is {describe_state(own)}. {detail[0].upper()}{detail[1:]}.')
    net.load_state_dict({name: value for name, value in state.items()
                         if name in own and value.shape == own[name].shape}, strict=strict)
