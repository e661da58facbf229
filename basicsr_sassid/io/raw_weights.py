"""A weights file's bytes to its content, and the checks of the content that need no network."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from basicsr_sassid.io.weights_digest import SETTINGS, WEIGHTS
from basicsr_sassid.utils.errors import UserError

# in torch's messages about a pickle that would call or make something, and about programs
_REFUSALS = ('unsupported global', 'can only create new object', 'can only build tensor', 'torchscript')

_MOST_CODE = 2**26  # bytes that the programs of a TorchScript archive expand to
_MOST_VALUES = 5000  # of a setting: some networks have an argument per layer


def read_pth(path: Path, name: str) -> Any:
    """Content of a file of ``torch.save``; no code in it is run. Raises UserError that calls the file ``name``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of torch, about archives that it then refuses
            _check_archive(path, 0)
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # damaged bytes raise anything in torch, zipfile and pickle
        if any(text in str(error).lower() for text in _REFUSALS):
            raise UserError(
                f'{name} holds more than tensors and plain values, and is refused: loading it could run code. Where it '
                'was made, save the weights alone: torch.save(net.state_dict(), FILE).'
            ) from error
        raise _damaged(path, name) from error


def _check_archive(path: Path, most_more: int) -> None:
    """Refuse an archive that expands to more bytes than it has: torch compresses no tensors. Raises ValueError.

    ``most_more``: bytes that are allowed beyond the file's.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size + most_more:
                raise ValueError('compressed')


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of ``torch.jit.save``: it has constants beside its data."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('/constants.pkl') for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def read_torchscript(path: Path, name: str) -> dict[str, Tensor]:
    """State dict of an archive of ``torch.jit.save``, the form in which OpenAI publishes CLIP.

    TorchScript holds no Python, and a forward pass is never run here. The only program that loading runs is a module's
    ``__setstate__``, so an archive that has one is refused before it is loaded. Those of OpenAI are traced modules,
    which have none.

    Args:
        path: file.
        name: the file in messages.

    Raises:
        UserError: the archive has such a program, or is damaged.
    """
    try:
        _check_archive(path, _MOST_CODE)
        with zipfile.ZipFile(path) as archive:
            programs = [entry for entry in archive.infolist() if entry.filename.endswith('.py')]
            runs_code = any(b'__setstate__' in archive.read(entry) for entry in programs)
        if not runs_code:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # torch.jit is deprecated; the published files stay as they are
                module = cast(Any, torch.jit.load(path, map_location='cpu'))  # pyright: ignore[reportUnknownMemberType]
                return dict(module.state_dict())
    except Exception as error:  # damaged bytes raise anything in torch, zipfile and pickle
        raise _damaged(path, name) from error
    raise UserError(
        f'{name} is a TorchScript archive with a program that runs when it is loaded (__setstate__), and is refused. '
        'Where it was made, save the weights alone: torch.save(net.state_dict(), FILE).'
    )


def read_safetensors(path: Path, name: str) -> dict[str, Any]:
    """``params`` of a .safetensors file, and from its metadata the settings and the digest. Raises UserError."""
    try:
        content = path.read_bytes()  # the library opens no path that is not UTF-8
        params = safetensors.torch.load(content)
        header_size = int.from_bytes(content[:8], 'little')
        card: dict[str, str] = json.loads(content[8 : 8 + header_size]).get('__metadata__') or {}
        settings: dict[str, Any] = {
            key: json.loads(card[key]) for key in (*SETTINGS, 'digest') if key in card and key != 'format'
        }
    except Exception as error:  # of the library, of JSON
        raise _damaged(path, name) from error
    if card.get('format', '').isdecimal():  # 'pt' in files of other programs
        settings['format'] = int(card['format'])
    return {'params': params, **settings}


def check_readable(path: Path, name: str) -> None:
    """Refuse a file that the system does not let read: later errors are of its bytes. Raises UserError."""
    try:
        with open(path, 'rb') as file:
            file.read(1)
    except OSError as error:
        raise UserError(f'cannot read {name}: {error.strerror or error}') from error


def _damaged(path: Path, name: str) -> UserError:
    return UserError(
        f'{name} is no file of weights, or damaged ({path.stat().st_size:,} bytes). Copy or download it again.'
    )


def check_structure(content: object, name: str) -> dict[str, Any]:
    """Refuse a content that is no mapping of names, or whose tensors are not the plain ones that files hold.

    Raises:
        UserError: for a tensor with its name.
    """
    if not isinstance(content, dict):
        raise UserError(f'{name} is no file of weights: it holds a {type(content).__name__}')
    entries = cast('dict[Any, Any]', content)
    _check_level(entries, name, 2)  # a wrapped state dict is one or two levels below
    for key in SETTINGS:
        if not _is_small(entries.get(key)):
            raise UserError(f'{name} is damaged: {key} is longer than any settings')
    return entries


def _is_small(value: object) -> bool:
    """Whether nested mappings and lists end after some thousand values: a pickle may nest them endlessly."""
    values, seen = [value], 0
    while values and seen < _MOST_VALUES:
        last, seen = values.pop(), seen + 1
        if isinstance(last, Mapping):
            values += cast('Mapping[object, object]', last).values()
        elif isinstance(last, (list, tuple)):
            values += cast('list[object]', last)
    return not values


def _check_level(entries: Mapping[Any, Any], name: str, depth: int) -> None:
    for key, value in entries.items():
        if not isinstance(key, str):
            raise UserError(f'{name} is no file of weights: it has an entry {key!r:.40}, where a name is expected')
        if isinstance(value, Tensor):
            if not _is_plain(value):
                raise UserError(f'{name} is damaged: {key} is no dense tensor of its own bytes')
        elif isinstance(value, Mapping) and depth and key in (*WEIGHTS, 'model_weight', 'denoiser', 'state_dict'):
            _check_level(cast('Mapping[Any, Any]', value), name, depth - 1)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense, on the CPU, and no larger than its bytes: a view may repeat one value 10^12 times."""
    if tensor.layout is not torch.strided or tensor.device.type != 'cpu' or tensor.is_quantized:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
