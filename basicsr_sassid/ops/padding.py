"""Pad images to the sizes that a network takes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int, mode: str) -> Tensor:
    """Pad the bottom and the right so that both sides are multiples. ``y[..., :h, :w]`` undoes it.

    Args:
        x: (N, C, H, W), any H, W >= 1.
        multiple: divisor of both sides of the result.
        mode: ``'reflect'`` mirrors the image without its edge, as often as needed (any size, even one smaller
            than the padding); ``'zeros'`` adds zeros.

    Raises:
        ValueError: another mode.
    """
    h, w = x.shape[-2:]
    pad_h, pad_w = -h % multiple, -w % multiple
    if torch.compiler.is_exporting() and mode == 'reflect':  # the sizes are symbols: no branch on them
        return x[..., _mirrored(h, h + pad_h, x.device)[:, None], _mirrored(w, w + pad_w, x.device)]
    if not (pad_h or pad_w):
        return x
    if mode == 'zeros':
        return F.pad(x, (0, pad_w, 0, pad_h))
    if mode != 'reflect':
        raise ValueError(f"mode: expected 'reflect' or 'zeros', got {mode!r}")
    if pad_h < h and pad_w < w:
        return F.pad(x, (0, pad_w, 0, pad_h), mode='reflect')
    return x[..., _mirrored(h, h + pad_h, x.device)[:, None], _mirrored(w, w + pad_w, x.device)]


def _mirrored(size: int, padded: int, device: torch.device) -> Tensor:
    """0 1 2 1 0 1 2 ...: the indices of a line of ``size`` pixels mirrored out to ``padded``."""
    period = torch.full((1,), torch.sym_max(2 * (size - 1), 1), device=device)  # a tensor: ONNX has no other modulo
    position = torch.arange(padded, device=device) % period
    return torch.minimum(position, 2 * (size - 1) - position).clamp(min=0)


def forward_padded(net: Callable[[Tensor], Tensor], x: Tensor, multiple_of: int) -> Tensor:
    """Apply a network that needs sides that are multiples to any H and W: pad by mirroring, predict, crop."""
    h, w = x.shape[-2:]
    return net(pad_to_multiple(x, multiple_of, 'reflect'))[..., :h, :w]
