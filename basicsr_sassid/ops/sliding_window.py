"""Predict a whole image in overlapping windows of the size that a network was trained on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from basicsr_sassid.ops.dihedral import SYMMETRIES, dihedral, dihedral_inverse, self_ensemble


def window_starts(side: int, window: int) -> list[int]:
    """Starts of windows over a line of ``side`` pixels; neighbours overlap by at least half a window."""
    if side <= window:
        return [0]
    count = -(-(side - window) // max(window // 2, 1)) + 1
    return [round(number * (side - window) / (count - 1)) for number in range(count)]


def sliding_window_cost(size: tuple[int, int], window: int) -> int:
    """Pixels of all windows over an image of ``size`` (height, width): the cost of one sliding-window prediction."""
    height, width = size
    return (
        len(window_starts(height, window))
        * len(window_starts(width, window))
        * min(height, window)
        * min(width, window)
    )


@torch.no_grad()
def sliding_window_predict(
    net: Callable[[Tensor], Tensor],
    image: Tensor,
    window: int,
    ensemble: bool = False,
    batch_size: int = 8,
    net_of_turned: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Predict a whole image from windows of the training's patch size.

    A window has the size of the training's patches, so the network's context is that of training. Where windows overlap
    (nearly everywhere four of them), their predictions are averaged with weights that fall towards the edges of a
    window. Neighbouring windows are flipped and turned differently. So the result is a mean over positions and
    symmetries, as on-the-fly targets are, and no patch contains a zero border inside the image.

    Args:
        net: image to image of the same size, in evaluation mode.
        image: (C, H, W), in the units of net, on its device.
        window: side of the windows in pixels; a smaller image is one window.
        ensemble: average all eight symmetries of each window.
        batch_size: windows in a batch.
        net_of_turned: predicts windows whose rows are columns of the image; by default ``net``.

    Returns:
        (C', H, W), float32.
    """
    height, width = (min(side, window) for side in image.shape[-2:])
    places = list(product(*(enumerate(window_starts(side, window)) for side in image.shape[-2:])))
    weight = _tent(height, image.device)[:, None] * _tent(width, image.device)
    total: Tensor | None = None
    weights = image.new_zeros(image.shape[-2:])
    # neighbours, above and beside, differ; a batch holds one symmetry, as height and width may differ
    groups = [
        [(top, left) for (row, top), (column, left) in places if (3 * row + column) % len(SYMMETRIES) == number]
        for number in range(len(SYMMETRIES))
    ]
    for (turns, flip), group in zip(SYMMETRIES, groups):
        for first in range(0, len(group), batch_size):
            batch = group[first : first + batch_size]
            windows = torch.stack([image[:, top : top + window, left : left + window] for top, left in batch])
            if ensemble:
                predictions = self_ensemble(net, windows, net_of_turned)
            else:
                view = dihedral(windows, turns, flip).contiguous(memory_format=torch.channels_last)
                predict = net_of_turned if net_of_turned is not None and turns % 2 else net
                predictions = dihedral_inverse(predict(view).float(), turns, flip)
            if total is None:
                total = predictions.new_zeros(predictions.shape[1], *image.shape[-2:])
            for prediction, (top, left) in zip(predictions, batch):
                total[:, top : top + height, left : left + width] += prediction * weight
                weights[top : top + height, left : left + width] += weight
    assert total is not None
    return total / weights


def _tent(side: int, device: torch.device) -> Tensor:
    """1, 2, ... side / 2 ... 2, 1: no weight is zero, for the edge of an image is in one window alone."""
    distance = torch.arange(1, side + 1, device=device)
    return torch.minimum(distance, distance.flip(0)).float()
