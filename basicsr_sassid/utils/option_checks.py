"""Checks of option blocks that stay open, because BasicSR's registries or other libraries define their keys."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

from basicsr_sassid.utils.errors import UserError


def check_keys(block: object, allowed: Iterable[str], where: str, required: Iterable[str] = ()) -> None:
    """Refuse an option block that has a key not in ``allowed`` or lacks one of ``required``.

    Raises:
        UserError: names the key, the nearest valid one and all valid ones.
    """
    if not isinstance(block, Mapping):
        raise UserError(f'{where}: expected a block of keys, got {block!r}')
    entries = cast(Mapping[str, object], block)
    valid = sorted({*allowed, *required})
    for key in entries:
        if key not in valid:
            near = difflib.get_close_matches(str(key), valid, n=1)
            hint = f' Did you mean {near[0]!r}?' if near else ''
            raise UserError(f'{where}: unknown key {key!r}.{hint} Valid keys: {", ".join(valid)}.')
    for key in required:
        if entries.get(key) is None:
            raise UserError(f'{where}: key {key!r} is missing.')


def check_choice(value: object, choices: Iterable[object], where: str) -> None:
    """Refuse a value that is none of ``choices``, and list them."""
    choices = list(choices)
    if value not in choices:
        raise UserError(f'{where}: expected one of {", ".join(map(str, choices))}, got {value!r}')


def check_number(value: object, least: int, where: str) -> None:
    """Refuse a value that is no whole number, or less than ``least``; YAML's yes and no are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f'{where}: expected a number >= {least}, got {value!r}')


def check_type(registry: Any, name: object, where: str) -> None:
    """Refuse a name that is not in BasicSR's ``registry``, and list those that are."""
    if name not in registry and f'{name}_basicsr' not in registry:  # BasicSR's get looks for both
        raise UserError(f'{where}: nothing is registered as {name!r}. Registered: {", ".join(sorted(registry.keys()))}')


def check_registered(registry: Any, block: object, where: str) -> None:
    """Refuse a block ``{type: NAME, ...}`` whose NAME is not in BasicSR's ``registry`` or does not take its keys."""
    if not isinstance(block, Mapping) or 'type' not in block:
        raise UserError(f'{where}: expected a block with a type, got {block!r}')
    entries = cast(Mapping[str, object], block)
    check_type(registry, entries['type'], f'{where}.type')
    parameters = inspect.signature(registry.get(entries['type'])).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_keys(entries, ['type', *parameters], where)
