"""Sequences and progress callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Progress = Callable[[float], None]  # called with the fraction done, 0 to 1


class Sliceable(Protocol):
    """A list, range or array."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Any: ...


S = TypeVar('S', bound=Sliceable)


def count_noun(number: int, noun: str) -> str:
    """``1 pixel``, ``2 pixels``."""
    return f'{number} {noun}' if number == 1 else f'{number} {noun}s'


def evenly_spaced(items: S, most: int) -> S:
    """At most ``most`` of the items: the first of every ``ceil(len(items) / most)``.

    Example:
        >>> evenly_spaced(range(10), 4)
        range(0, 10, 3)
    """
    return items[:: max(math.ceil(len(items) / most), 1)]


def scaled(progress: Progress | None, start: float, length: float) -> Progress:
    """The callback for one part of a task, which spans ``start`` to ``start + length`` of the whole."""

    def report(fraction: float) -> None:
        if progress:
            progress(start + length * fraction)

    return report
