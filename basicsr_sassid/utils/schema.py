"""Typed option blocks: pydantic models whose errors name the key, what was found and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from basicsr_sassid.utils.errors import UserError

Block = TypeVar('Block', bound='OptionBlock')


class OptionBlock(BaseModel):
    """Base of the option blocks that this package defines: unknown keys are errors; YAML's ``yes`` is
    no number, nor are nan and inf.

    Attributes:
        renamed_keys: old key -> what to write now; an old key is an error that names the new one.
    """

    model_config = ConfigDict(
        extra='forbid', strict=True, frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
    renamed_keys: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def parse(cls: type[Block], block: object, where: str) -> Block:
        """Check an option block. Raises UserError that names ``where`` (empty: the top of the file), the key, what was
        found and what is allowed."""
        if not isinstance(block, Mapping):
            raise UserError(f'{where or "options"}: expected a block of keys, got {block!r}')
        try:
            return cls.model_validate(dict(cast(Mapping[str, Any], block)))
        except ValidationError as error:
            raise UserError(_describe(cls, error.errors()[0], where)) from error

    def as_options(self) -> dict[str, Any]:
        """The block as plain dicts, without the keys that have their default."""
        return self.model_dump(exclude_defaults=True)


def _describe(cls: type[OptionBlock], error: ErrorDetails, where: str) -> str:
    *path, key = error['loc'] or ('',)
    for name in path:  # into the block that holds the key
        field = cls.model_fields.get(str(name))
        cls = (field and nested_block(field.annotation)) or cls
    block = '.'.join(map(str, (where, *path))).removeprefix('.')
    kind, context = error['type'], error.get('ctx') or {}
    place = f'{block}.{key}'.strip('.') if key != '' else block
    block = block or 'options'
    if kind == 'extra_forbidden':
        return _unknown_key(cls, str(key), block)
    if kind == 'missing':
        return f'{block}: key {key!r} is missing.'
    if key == '[key]':  # of a block whose keys are names
        reason = context['error'] if kind == 'value_error' else f'expected a text as the key, got {error["input"]!r}'
        return f'{block.rpartition(".")[0]}: {reason}'
    if kind == 'value_error':  # of a validator of ours
        return f'{place}: {context["error"]}'
    return f'{place}: {_expected(kind, context, error["msg"])}, got {error["input"]!r}'


def nested_block(annotation: Any) -> type[OptionBlock] | None:
    """The option block inside an annotation such as ``dict[str, Stage] | None``, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, OptionBlock):
        return annotation
    return next(filter(None, map(nested_block, get_args(annotation))), None)


def _unknown_key(cls: type[OptionBlock], key: str, block: str) -> str:
    if key in cls.renamed_keys:
        return f'{block}: key {key!r} was renamed: {cls.renamed_keys[key]}'
    valid = sorted(cls.model_fields)
    near = difflib.get_close_matches(key, valid, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    return f'{block}: unknown key {key!r}.{hint} Valid keys: {", ".join(valid)}.'


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    """The allowed values in this package's wording; pydantic's message for other kinds of errors."""
    if kind in ('literal_error', 'enum'):
        return f'expected one of {str(context["expected"]).replace(chr(39), "").replace(" or ", ", ")}'
    if kind == 'finite_number':
        return 'expected a finite number'
    bounds = {'greater_than_equal': 'ge', 'greater_than': 'gt', 'less_than_equal': 'le', 'less_than': 'lt'}
    if kind in bounds:
        sign = {'ge': '>=', 'gt': '>', 'le': '<=', 'lt': '<'}[bounds[kind]]
        return f'expected a number {sign} {context[bounds[kind]]:g}'
    types = {
        'int': 'a whole number',
        'float': 'a number',
        'bool': 'true or false',
        'string': 'a text',
        'dict': 'a block of keys',
        'model': 'a block of keys',
        'list': 'a list',
    }
    name = kind.removesuffix('_type').removesuffix('_attributes')
    return f'expected {types[name]}' if name in types else message
