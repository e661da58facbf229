"""The settings in a weights file, and the networks that a file may name."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, cast

import yaml
from pydantic import Field
from torch import Tensor, nn

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.archs.dbsnl_arch import DBSNl
from basicsr_sassid.archs.ffdnet_arch import FFDNet
from basicsr_sassid.archs.lan_arch import LAN
from basicsr_sassid.archs.unet_arch import DenoisingUNet
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_keys
from basicsr_sassid.utils.schema import OptionBlock

# networks that a file may name; any other is built only if the user names it
OWN_NETWORKS: dict[str, type[nn.Module]] = {net.__name__: net for net in (DenoisingUNet, LAN, BNN, DBSNl, FFDNet)}
TEACHERS = (BNN, LAN)
# values of a file's `role`, the name of its option block network_<role>, whose networks a training delivers
DELIVERED_ROLES = ('g', 'bsn')
_LARGEST = 4096  # of a width or a depth that a file names
_LONGEST = 16  # of a list of numbers in a message
_MOST_WHITE = 10**6  # of a range: 65535 of 16-bit images is the largest in use


class _Settings(OptionBlock):
    """Settings in a weights file."""

    role: str | None = None
    network: dict[str, Any] | None = None
    img_range: float | None = Field(default=None, gt=0, le=_MOST_WHITE, allow_inf_nan=False)
    inference: dict[str, Any] | None = None


def check_settings(content: Mapping[str, Any], name: str) -> None:
    """Check the types and ranges of the settings in a weights file's content. Raises UserError."""
    _Settings.parse(
        {key: content[key] for key in _Settings.model_fields if not isinstance(content.get(key), (Tensor, type(None)))},
        name,
    )


def check_card_network(block: Mapping[str, Any], name: str) -> None:
    """Check the network that a weights file names: one of this package, with arguments that it declares.

    Other networks of BasicSR's registry take paths of files, or code, as arguments.

    Args:
        block: ``{type: NAME, ...}`` of the file.
        name: of the file, for messages.

    Raises:
        UserError: another network; an argument that it does not declare, of another type or too large.
    """
    kind = block.get('type')
    network = OWN_NETWORKS.get(kind) if isinstance(kind, str) else None
    if network is None:
        raise UserError(
            f'{name} names the network {_short(kind)}, which is none of this package ({", ".join(OWN_NETWORKS)}) and '
            f'is not built on the word of a file. If it is right, give it yourself: {_advice(block)}.'
        )
    where = f'{name}: network'
    hints = {key: hint for key, hint in typing.get_type_hints(network.__init__).items() if key != 'return'}
    check_keys(block, ['type', *hints], where)
    for key, hint in hints.items():
        if key in block and (problem := _problem(block[key], hint)):
            raise UserError(f'{where}.{key}: expected {problem}, got {_short(block[key])}')


def _problem(value: object, hint: Any) -> str | None:
    """The expected value if ``value`` is not of the type that a network declares; else None."""
    if value is None and type(None) in typing.get_args(hint):
        return None
    if hint is bool:
        return None if isinstance(value, bool) else 'true or false'
    if hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
        return None if fits else f'a whole number from 0 to {_LARGEST}'
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MOST_WHITE
    return None if fits else f'a number above 0, up to {_MOST_WHITE}'


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}...'


def _advice(block: Mapping[str, Any]) -> str:
    """How to name a network: with those of its arguments that are numbers or short lists of numbers."""
    plain = {key: value for key, value in block.items() if key != 'type' and _is_plain(value)}
    text = yaml.safe_dump({'type': str(block.get('type'))[:60], **plain}, default_flow_style=True, sort_keys=False)
    text = ' '.join(text.split())
    rest = [_short(key) for key in block if key not in plain and key != 'type']
    return f"--network '{text}', or the argument network of Denoiser" + (
        f' (left out here: {", ".join(rest[:5])})' if rest else ''
    )


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        values = cast('list[object]', value)
        return len(values) <= _LONGEST and all(isinstance(item, (int, float)) for item in values)
    return isinstance(value, (int, float))


def parse_network(text: str, where: str = '--network') -> dict[str, Any]:
    """A network from the command line: ``{type: NAME, key: value, ...}`` in YAML, or a ``NAME`` alone.

    Raises:
        UserError: neither of the two.
    """
    try:
        block: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: expected '{{type: NAME, ...}}', got {_short(text)}") from error
    if isinstance(block, str):
        return {'type': block}
    if not isinstance(block, dict) or not isinstance(cast('dict[str, Any]', block).get('type'), str):
        raise UserError(f"{where}: expected '{{type: NAME, ...}}', got {_short(text)}")
    return cast('dict[str, Any]', block)
