"""Size of a blind neighbourhood: one number, or height and width."""

from __future__ import annotations

from typing import Any

BlindSize = int | tuple[int, int]
MAX_BLIND_SIZE = 127  # pixels


def blind_sides(value: Any) -> tuple[int, int]:
    """Height and width of a blind neighbourhood in pixels.

    Args:
        value: an odd number, 0 (nothing is hidden, the pixel itself included), or a pair of odd numbers.

    Raises:
        ValueError: anything else.
    """
    sides = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else ()
    are_sides = len(sides) == 2 and all(map(_is_side, sides))
    if not are_sides or not (sides == (0, 0) or all(side % 2 for side in sides)):
        raise ValueError(
            f'expected 0, an odd number up to {MAX_BLIND_SIZE}, or two of them (height, width), got {value!r}'
        )
    return sides[0], sides[1]


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_BLIND_SIZE
