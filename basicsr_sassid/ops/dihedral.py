"""The eight symmetries of the square, and the mean of a network's predictions over them (self-ensemble)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

SYMMETRIES = tuple(product(range(4), (False, True)))  # (quarter turns, flip first)


def dihedral(x: Tensor, turns: int, flip: bool) -> Tensor:
    """Flip (N, C, H, W) from left to right if ``flip``, then rotate it by ``turns`` quarter turns."""
    return torch.rot90(x.flip(3) if flip else x, turns, (2, 3))


def dihedral_inverse(x: Tensor, turns: int, flip: bool) -> Tensor:
    """Inverse of :func:`dihedral`."""
    x = torch.rot90(x, -turns, (2, 3))
    return x.flip(3) if flip else x


def self_ensemble(
    net: Callable[[Tensor], Tensor], x: Tensor, net_of_turned: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Mean of the predictions for the eight symmetries of x, each transformed back: (N, C, H, W) -> (N, C, H, W).

    ``net_of_turned`` predicts the four views whose rows are columns of x, (N, C, W, H); by default ``net``.
    """
    total: Tensor | None = None
    for turns, flip in SYMMETRIES:
        view = dihedral(x, turns, flip).contiguous(memory_format=torch.channels_last)
        predict = net_of_turned if net_of_turned is not None and turns % 2 else net
        prediction = dihedral_inverse(predict(view), turns, flip).float()
        total = prediction.clone() if total is None else total.add_(prediction)
    assert total is not None
    return total / len(SYMMETRIES)
