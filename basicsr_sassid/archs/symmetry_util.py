"""The eight flips and turns of the square."""
from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

SYMMETRIES = tuple(product(range(4), (False, True)))  # (quarter turns, flip first)


def turned(x: Tensor, turns: int, flip: bool) -> Tensor:
    """(N, C, H, W), flipped left to right or not, then turned."""
    return torch.rot90(x.flip(3) if flip else x, turns, (2, 3))


def turned_back(x: Tensor, turns: int, flip: bool) -> Tensor:
    """Undo :func:`turned`."""
    x = torch.rot90(x, -turns, (2, 3))
    return x.flip(3) if flip else x


def over_symmetries(net: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Mean of net's answers on the eight flips and turns of x, each turned back: (N, C, H, W) -> (N, C, H, W)."""
    total = None
    for symmetry in SYMMETRIES:
        back = turned_back(net(turned(x, *symmetry).contiguous(memory_format=torch.channels_last)), *symmetry).float()
        total = back.clone() if total is None else total.add_(back)
    return total / 8
