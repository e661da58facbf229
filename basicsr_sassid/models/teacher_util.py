"""Ask a frozen teacher about a whole image, in windows of the size that it was trained on."""
from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from basicsr_sassid.archs.symmetry_util import over_symmetries


def spread(side: int, window: int) -> list[tuple[int, int, int]]:
    """Windows over a line of ``side`` pixels, at least half a window of overlap between neighbours.

    Returns:
        (start, first, last) each: the window's start, and the pixels of the line whose nearest centre is its own:
        a quarter of a window or more from its ends, but at the ends of the line.
    """
    if side <= window:
        return [(0, 0, side)]
    count = -(-(side - window) // max(window // 2, 1)) + 1
    starts = [round(number * (side - window) / (count - 1)) for number in range(count)]
    cuts = [0, *((left + right + window) // 2 for left, right in zip(starts, starts[1:])), side]
    return list(zip(starts, cuts, cuts[1:]))


def asked_pixels(size: tuple[int, int], window: int) -> int:
    """Pixels of all windows over an image of ``size``: what asking once costs."""
    height, width = size
    return len(spread(height, window)) * len(spread(width, window)) * min(height, window) * min(width, window)


@torch.no_grad()
def ask(net: nn.Module, image: Tensor, window: int, ensemble: bool = False, batch_size: int = 8) -> Tensor:
    """The teacher's answer on a whole image, from windows of the training's patch size.

    Within a window all is as in training; no pixel is nearer than a quarter of a window to the edge of the one that
    answers for it, except at the edge of the image: no patch sees a zero border where the image goes on.

    Args:
        net: image to image of the same size, in eval.
        image: (C, H, W), in the units of net, on its device.
        window: side of the windows in pixels; a smaller image is one window.
        ensemble: mean of the answers on the eight flips and turns.
        batch_size: windows at a time.

    Returns:
        (C', H, W), float32.
    """
    rows, columns = (spread(side, window) for side in image.shape[-2:])
    places = list(product(rows, columns))
    result = None
    for first in range(0, len(places), batch_size):
        batch = places[first:first + batch_size]
        views = torch.stack([image[:, top:top + window, left:left + window] for (top, *_), (left, *_) in batch])
        answers = (over_symmetries(net, views) if ensemble
                   else net(views.contiguous(memory_format=torch.channels_last)).float())
        if result is None:
            result = answers.new_empty(answers.shape[1], *image.shape[-2:])
        for answer, ((top, y0, y1), (left, x0, x1)) in zip(answers, batch):
            result[:, y0:y1, x0:x1] = answer[:, y0 - top:y1 - top, x0 - left:x1 - left]
    return result
