"""Size of a blind neighbourhood: one number, or height and width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator

from basicsr_sassid.utils.errors import UserError

BlindSize = int | tuple[int, int]
MAX_BLIND_SIZE = 127  # pixels


def blind_sides(value: Any) -> tuple[int, int]:
    """Height and width of a blind neighbourhood in pixels.

    Args:
        value: an odd number, 0 (nothing is hidden, the pixel itself included), or a pair of odd numbers.

    Raises:
        ValueError: anything else.
    """
    values = cast('Sequence[object]', value) if isinstance(value, list | tuple) else (value, value)
    sides = [
        side for side in values if isinstance(side, int) and not isinstance(side, bool) and 0 <= side <= MAX_BLIND_SIZE
    ]
    if len(values) != 2 or len(sides) != 2 or not (sides == [0, 0] or all(side % 2 for side in sides)):
        raise ValueError(
            f'expected 0, an odd number up to {MAX_BLIND_SIZE}, or two of them (height, width), got {value!r}'
        )
    return sides[0], sides[1]


def parse_blind_size(text: str, where: str) -> BlindSize:
    """The blind size in a text: ``'3'``, or height x width as in ``'5x9'``.

    Raises:
        UserError: anything else; it names ``where``.
    """
    try:
        sides = tuple(map(int, text.split('x')))
        height, width = blind_sides(sides[0] if len(sides) == 1 else sides)
    except ValueError as error:
        raise UserError(
            f'{where}: expected 0, an odd number up to {MAX_BLIND_SIZE}, or two of them, height x width, such as 5x9, '
            f'got {text!r}'
        ) from error
    return height if len(sides) == 1 else (height, width)


def _checked(value: Any) -> BlindSize:
    """A blind size of an option file, whose pairs are lists. Raises ValueError."""
    sides = blind_sides(value)
    return value if isinstance(value, int) else sides


def _checked_or_none(value: Any) -> BlindSize | None:
    return None if value is None else _checked(value)


def _checked_list(value: Any) -> list[BlindSize] | str:
    """``auto``, or blind sizes of an option file. Raises ValueError."""
    if value == 'auto':
        return value
    if not isinstance(value, list) or not value:
        raise ValueError(f'expected auto or a list of blind sizes, got {value!r}')
    sizes = [_checked(size) for size in cast('list[object]', value)]
    if len(set(map(blind_sides, sizes))) < len(sizes):
        raise ValueError(f'a size is there twice in {value!r}')
    areas = [height * width for height, width in map(blind_sides, sizes)]
    if areas != sorted(areas):
        raise ValueError(f'expected the sizes from the smallest to the largest, got {value!r}')
    return sizes


# Of option blocks. None: the network's own.
BlindSizeOption = Annotated[BlindSize | None, BeforeValidator(_checked_or_none)]
BlindSizesOption = Annotated[Literal['auto'] | list[BlindSize], BeforeValidator(_checked_list)]
