"""Build networks from option blocks; read and write weights files of this package, BasicSR and the authors."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from basicsr.archs import build_network as basicsr_build_network  # pyright: ignore
from basicsr.utils.registry import ARCH_REGISTRY  # pyright: ignore[reportMissingTypeStubs]
from torch import Tensor, nn

from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.io.author_checkpoints import convert_author_state_dict, describe_state, unwrap_checkpoint
from basicsr_sassid.io.raw_weights import check_readable, check_structure, read_pth, read_safetensors
from basicsr_sassid.io.weights_card import check_card_network, check_settings
from basicsr_sassid.io.weights_digest import check_digests, weights_digests
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_registered

# of net_*.pth and student.safetensors. Format 1 has no such key (or the package's name), and other names in `inference`
FORMAT = 2
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def build_network(block: Mapping[str, Any] | None, where: str) -> nn.Module:
    """BasicSR's build_network, with errors that name the option. Raises UserError."""
    if block is None:
        raise UserError(f'{where}: the block is missing from the options')
    check_registered(ARCH_REGISTRY, block, where)
    try:
        net = cast(nn.Module, basicsr_build_network(block))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f'{where}: {_first_line(error)}') from error
    except Exception as error:  # a constructor of anybody's
        raise UserError(f'{where}: {block["type"]} does not take these arguments: {error!r}') from error
    return net


def build_card_network(
    block: Mapping[str, Any], state: Mapping[str, Tensor], path: str | os.PathLike[str]
) -> nn.Module:
    """The network that a weights file names, with the file's weights.

    Its sizes are compared with the file's tensors before any memory is taken: a file may state any.

    Raises:
        UserError: no network of this package, arguments that it does not take, or another size than the tensors'.
    """
    check_card_network(block, str(path))
    with torch.device('meta'):
        _check_fit(build_network(block, str(path)), state, path)
    net = build_network(block, str(path))
    load_state(net, state, path)
    return net


def read_weights(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a weights file to the CPU, and check it.

    The last few files are kept, so that checking options and building the model read a given checkpoint once.

    Returns:
        The content: ``params`` and what else there is of ``params_ema``, ``network``, ``img_range``, ``inference``,
        ``role``, ``format``; or a bare state dict.

    Raises:
        UserError: the file is missing, damaged (its content does not match its digest, where it has one), no weights
            file, holds more than tensors and plain values, has settings out of their range, or is too new.
    """
    path = require_path(path, 'weights')
    if not path.is_file():
        kind = 'a folder' if path.is_dir() else 'no regular file'
        raise UserError(f'weights: expected a .pth or .safetensors file, and {path} is {kind}')
    stat = path.stat()
    return dict(_read_file(path.resolve(), str(path), stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read_file(path: Path, name: str, size: int, modified: int) -> dict[str, Any]:
    """``size`` and ``modified`` distinguish a file from an earlier one of the same name."""
    check_readable(path, name)
    content = (read_safetensors if path.suffix == '.safetensors' else read_pth)(path, name)
    entries = check_structure(content, name)
    check_format(entries.get('format'), FORMAT, name)
    check_digests(entries, name)
    check_settings(entries, name)
    if isinstance(entries.get('digest'), Mapping):  # a copy that the caller changes has another one
        entries = {key: value for key, value in entries.items() if key != 'digest'}
    state, settings = unwrap_checkpoint(entries)
    return {'params': state, **settings} if settings else entries


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def check_format(number: object, newest: int, name: str) -> None:
    """Refuse a file of a newer format than this version reads. Raises UserError."""
    if isinstance(number, int) and number > newest:
        raise UserError(f'{name} has format {number}; this version reads up to {newest}. Upgrade basicsr_sassid.')


def write_safetensors(state: Mapping[str, Tensor], card: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write weights with a model card, each value of it as JSON, in the file's metadata.

    ``card`` holds ``network`` and ``img_range``, from which a Denoiser builds the network, and any other facts. The
    digests of weights and settings are added. Equal weights and facts give equal bytes.
    Raises UserError if the file cannot be written.
    """
    card = {'format': FORMAT, **card}
    card['digest'] = weights_digests({'params': state, **card})
    metadata = {key: json.dumps(card[key]) for key in sorted(card)}
    content = safetensors.torch.save({name: value.contiguous() for name, value in state.items()}, metadata)
    with atomic_write(path) as partial:
        partial.write_bytes(_with_metadata(content, metadata))


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """The bytes of a .safetensors file with its metadata in the given order; the library's is that of a hash table."""
    start = 8 + int.from_bytes(content[:8], 'little')
    header = json.loads(content[8:start])
    header = json.dumps({**header, '__metadata__': metadata}, separators=(',', ':'), ensure_ascii=False).encode()
    header += b' ' * (-len(header) % 8)  # tensors begin at a multiple of 8 bytes
    return len(header).to_bytes(8, 'little') + header + content[start:]


def save_weights(content: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write ``net_*.pth``: ``params`` and settings, as :func:`read_weights` returns them, with their digests.

    Equal weights and settings give equal bytes, whatever the file's name.
    Raises UserError if the file cannot be written.
    """
    buffer = io.BytesIO()  # torch.save to a path writes the file's name into the archive
    torch.save({**content, 'digest': weights_digests(content)}, buffer)
    with atomic_write(path) as partial:
        partial.write_bytes(buffer.getbuffer())


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
    found: object = content[key or keys[0]] if keys else content
    if not isinstance(found, Mapping):
        raise UserError(f'{path} holds no weights: expected a state dict, got a {type(found).__name__}')
    state: Mapping[str, Any] = cast('Mapping[str, Any]', found)
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
        path: a ``.pth`` of this package or BasicSR (``params``, ``params_ema``), a bare state dict, a checkpoint of the
            SASSID authors (BNN.pth, LAN.pth, UNet.pth), or one of RRDBNet in the names of the first ESRGAN code.
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
    if strict:
        _check_fit(net, state, path)
    fitting = {name: value for name, value in state.items() if name in expected and value.shape == expected[name].shape}
    net.load_state_dict(
        {name: _converted(name, value, expected[name].dtype, path) for name, value in fitting.items()}, strict=strict
    )


def _check_fit(net: nn.Module, state: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Refuse a state dict whose names or sizes are not those of the network. Raises UserError."""
    expected = net.state_dict()
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    resized = [
        f'{name} is {tuple(state[name].shape)} in the file, {tuple(expected[name].shape)} in the network'
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    if missing or unknown or resized:
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


def _converted(name: str, value: Tensor, dtype: torch.dtype, path: str | os.PathLike[str]) -> Tensor:
    """A tensor of a file in the network's dtype. Raises UserError if its dtype is of another kind, or not finite."""
    if not dtype.is_floating_point:  # a counter or an index, which some networks store beside their weights
        if value.dtype.is_floating_point or value.dtype.is_complex:
            raise UserError(f'{path}: {name} is {_dtype_name(value)} in the file, and an integer in the network')
        return value
    if value.dtype not in _FLOATS:
        raise UserError(
            f'{path}: {name} is {_dtype_name(value)}; expected weights of float16, bfloat16, float32 or float64'
        )
    converted = value.to(dtype)
    if not converted.isfinite().all():
        raise UserError(
            f'{path}: {name} has values that are not finite (NaN or infinity): the training or the file failed'
        )
    return converted


def _dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix('torch.')
