"""The eight flips and turns of the square, averaged over."""
from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn


def over_symmetries(net: nn.Module, x: Tensor) -> Tensor:
    """Mean of net's answers on the eight flips and turns of x, each turned back: (N, C, H, W) -> (N, C, H, W)."""
    total = None
    for turns, flip in product(range(4), (False, True)):
        view = torch.rot90(x.flip(3) if flip else x, turns, (2, 3))
        back = torch.rot90(net(view.contiguous(memory_format=torch.channels_last)), -turns, (2, 3)).float()
        back = back.flip(3) if flip else back
        total = back.clone() if total is None else total.add_(back)
    return total / 8
