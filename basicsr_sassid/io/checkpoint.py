"""Build networks from option blocks; read and write weights files of this package, BasicSR and the authors."""

from __future__ import annotations

import functools
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from basicsr.archs import build_network as basicsr_build_network  # pyright: ignore
from basicsr.utils.registry import ARCH_REGISTRY  # pyright: ignore[reportMissingTypeStubs]
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor, nn

from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.author_checkpoints import convert_author_state_dict, describe_state, unwrap_checkpoint
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_registered

# of net_*.pth and student.safetensors. Format 1 has no such key (or the package's name), and other names in `inference`
FORMAT = 2


def build_network(block: Mapping[str, Any] | None, where: str) -> nn.Module:
    """BasicSR's build_network, with errors that name the option. Raises UserError."""
    if block is None:
        raise UserError(f'{where}: the block is missing from the options')
    check_registered(ARCH_REGISTRY, block, where)
    try:
        net = cast(nn.Module, basicsr_build_network(block))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f'{where}: {error}') from error
    return net


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file to the CPU. Raises UserError if it is missing, damaged, no weights file or too new.

    The last few files are kept, so that checking options and building the model read a given checkpoint once.
    """
    path = require_path(path, 'weights')
    stat = path.stat()
    return dict(_read_file(path.resolve(), str(path), stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read_file(path: Path, name: str, size: int, modified: int) -> dict[str, Any]:
    """``size`` and ``modified`` distinguish a file from an earlier one of the same name."""
    if path.suffix == '.safetensors':
        content: Any = _read_safetensors(path)
    else:
        try:
            content = torch.load(path, map_location='cpu', weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, ValueError) as error:
            raise UserError(f'{name} is no file of weights, or damaged: {_first_line(error)}') from error
    if not isinstance(content, dict):
        raise UserError(f'{name} is no file of weights: it holds a {type(content).__name__}')
    entries = cast('dict[str, Any]', content)
    check_format(entries.get('format'), FORMAT, name)
    state, settings = unwrap_checkpoint(entries)
    return {'params': state, **settings} if settings else entries


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def check_format(number: object, newest: int, name: str) -> None:
    """Refuse a file of a newer format than this version reads. Raises UserError."""
    if isinstance(number, int) and number > newest:
        raise UserError(f'{name} has format {number}; this version reads up to {newest}. Upgrade basicsr_sassid.')


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        opened: Any = safe_open(path, 'pt')
        with opened as file:
            card: dict[str, str] = file.metadata() or {}
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        settings: dict[str, Any] = {
            key: json.loads(card[key]) for key in ('network', 'img_range', 'inference') if key in card
        }
        if card.get('format', '').isdecimal():  # 'pt' in files of other programs
            settings['format'] = int(card['format'])
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f'{path} is no file of weights, or damaged: {_first_line(error)}') from error
    return {'params': params, **settings}


def write_safetensors(state: Mapping[str, Tensor], card: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write weights with a model card, each value of it as JSON, in the file's metadata.

    ``card`` holds ``network`` and ``img_range``, from which a Denoiser builds the network, and any other facts.
    Raises UserError if the file cannot be written.
    """
    with atomic_write(path) as partial:
        try:
            save_file(
                {name: value.contiguous() for name, value in state.items()},
                partial,
                {key: json.dumps(value) for key, value in {'format': FORMAT, **card}.items()},
            )
        except SafetensorError as error:  # of a full disk
            raise OSError(str(error)) from error


def state_dict_of(
    content: Mapping[str, Any], path: str | os.PathLike[str], key: str | None = None
) -> dict[str, Tensor]:
    """The state dict in the content that :func:`read_weights` returns, under this package's names.

    Args:
        content: of the file.
        path: of the file, for messages.
        key: ``'params'`` or ``'params_ema'``; by default the average where there is one.

    Raises:
        UserError: the file has no such key, or no state dict.
    """
    keys = [name for name in ('params_ema', 'params') if name in content]
    if key is not None and keys and key not in keys:
        raise UserError(f'{path} has no {key!r}; it has {", ".join(keys)}')
    state: Mapping[str, Any] = content[key or keys[0]] if keys else content
    state = {name.removeprefix('module.').removeprefix('_orig_mod.'): value for name, value in state.items()}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(
            f'{path} holds no weights (a state dict of tensors); found the keys {", ".join(map(str, list(state)[:5]))}'
        )
    try:
        return convert_author_state_dict(state)
    except ValueError as error:
        raise UserError(f'{path} is damaged or no checkpoint of the authors: {error}') from error


def load_weights(net: nn.Module, path: str | os.PathLike[str], key: str | None = None, strict: bool = True) -> None:
    """Load weights into a network; the format follows from the file's content.

    Args:
        net: the network.
        path: a ``.pth`` of this package or BasicSR (``params``, ``params_ema``), a bare state dict, or a checkpoint of
            the SASSID authors (BNN.pth, LAN.pth, UNet.pth).
        key: ``'params'`` or ``'params_ema'``; by default the average where there is one.
        strict: False loads the tensors that fit and ignores the others.

    Raises:
        UserError: no such file, not a weights file, or it does not fit: the error names the tensors that are missing,
            unknown or of another size.
    """
    load_state(net, state_dict_of(read_weights(path), path, key), path, strict)


def load_state(net: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike[str], strict: bool = True) -> None:
    """:func:`load_weights` with a state dict that was read already; ``path`` is for the error."""
    expected = net.state_dict()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    resized = [
        f'{name} is {tuple(state[name].shape)} in the file, {tuple(expected[name].shape)} in the network'
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if strict and (missing or unknown or resized):
        kinds = (('missing from the file', missing), ('not in the network', unknown), ('of another size', resized))
        detail = '; '.join(
            f'{kind}: {", ".join(names[:3])}' + (f' and {len(names) - 3} more' if len(names) > 3 else '')
            for kind, names in kinds
            if names
        )
        raise UserError(
            f'{path} does not fit {type(net).__name__}. The file looks like {describe_state(state)}; the '
            f'network is {describe_state(expected)}. {detail[0].upper()}{detail[1:]}.'
        )
    net.load_state_dict(
        {name: value for name, value in state.items() if name in expected and value.shape == expected[name].shape},
        strict=strict,
    )
