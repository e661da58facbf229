"""Checks of option blocks that stay open, because BasicSR's registries or other libraries define their keys."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from basicsr_sassid.utils.errors import UserError

_LARGEST = 2**63  # what torch and NumPy take as a whole number
_DEEPEST = 32  # blocks in blocks


def check_keys(block: object, allowed: Iterable[str], where: str, required: Iterable[str] = ()) -> None:
    """Refuse an option block that has a key not in ``allowed`` or lacks one of ``required``.

    Raises:
        UserError: names the key, the nearest valid one and all valid ones.
    """
    if not isinstance(block, Mapping):
        raise UserError(f'{where}: expected a block of keys, got {block!r}')
    entries = cast(Mapping[str, object], block)
    valid = sorted({key for key in (*allowed, *required) if isinstance(cast(object, key), str)})
    for key in entries:
        if not isinstance(cast(object, key), str):
            raise UserError(f'{where}: expected a text as the key, got {key!r}')
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


def check_number(value: object, least: int, where: str, most: int | None = None) -> None:
    """Refuse a value that is no whole number, less than ``least`` or more than ``most``; YAML's yes and no are no
    numbers."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        expected = f'expected a number >= {least}' if most is None else f'expected a number from {least} to {most}'
        raise UserError(f'{where}: {expected}, got {value!r}')


def check_finite(value: object, where: str = '', depth: int = 0) -> None:
    """Refuse nan, inf and numbers of no use anywhere in blocks and lists.

    Raises:
        UserError: names the key.
    """
    place = where or 'options'
    if depth > _DEEPEST:
        raise UserError(f'{place}: expected at most {_DEEPEST} blocks inside each other')
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f'{place}: expected a finite number, got {value!r}')
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise UserError(f'{place}: expected a number below 2^63, got {value!r}')
    if isinstance(value, Mapping):
        for key, entry in cast(Mapping[object, object], value).items():
            check_finite(entry, f'{where}.{key}'.removeprefix('.'), depth + 1)
    elif isinstance(value, list | tuple):
        for number, entry in enumerate(cast(Iterable[object], value)):
            check_finite(entry, f'{where}[{number}]', depth + 1)


def check_range(
    value: object, where: str, above: float | None = None, least: float | None = None, below: float | None = None
) -> None:
    """Refuse a value that is no number, or not ``> above``, ``>= least`` and ``< below``."""
    bounds = {'>': above, '>=': least, '<': below}
    expected = ' and '.join(f'{sign} {bound:g}' for sign, bound in bounds.items() if bound is not None)
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and (above is None or value > above)
        and (least is None or value >= least)
        and (below is None or value < below)
    )
    if not fits:
        raise UserError(f'{where}: expected a number {expected}, got {value!r}')


def check_type(registry: Any, name: object, where: str) -> None:
    """Refuse a name that is not in BasicSR's ``registry``, and list those that are."""
    if not isinstance(name, str) or (
        name not in registry and f'{name}_basicsr' not in registry
    ):  # BasicSR's get looks for both
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


def argument_names(function: Any) -> list[str]:
    """The named parameters of a function or class."""
    parameters = inspect.signature(function).parameters.values()
    return [item.name for item in parameters if item.kind not in (item.VAR_KEYWORD, item.VAR_POSITIONAL)]
