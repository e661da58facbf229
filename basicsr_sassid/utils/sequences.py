"""Sequences and progress callbacks."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar('T')
Progress = Callable[[float], None]  # called with the fraction done, 0 to 1


def evenly_spaced(items: Sequence[T], most: int) -> Sequence[T]:
    """At most ``most`` of the items: the first of every ``ceil(len(items) / most)``.

    Example:
        >>> evenly_spaced(range(10), 4)
        range(0, 10, 3)
    """
    return items[::max(math.ceil(len(items) / most), 1)]


def scaled(progress: Progress | None, start: float, length: float) -> Progress:
    """The callback for one part of a task, which spans ``start`` to ``start + length`` of the whole."""
    def report(fraction: float) -> None:
        if progress:
            progress(start + length * fraction)
    return report
