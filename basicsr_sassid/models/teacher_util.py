"""Ask a frozen teacher about a whole image, in windows of the size that it was trained on."""
from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from basicsr_sassid.archs.symmetry_util import SYMMETRIES, over_symmetries, turned, turned_back


def spread(side: int, window: int) -> list[int]:
    """Starts of windows over a line of ``side`` pixels, at least half a window of overlap between neighbours."""
    if side <= window:
        return [0]
    count = -(-(side - window) // max(window // 2, 1)) + 1
    return [round(number * (side - window) / (count - 1)) for number in range(count)]


def asked_pixels(size: tuple[int, int], window: int) -> int:
    """Pixels of all windows over an image of ``size``: what asking once costs."""
    height, width = size
    return len(spread(height, window)) * len(spread(width, window)) * min(height, window) * min(width, window)


@torch.no_grad()
def ask(net: Callable[[Tensor], Tensor], image: Tensor, window: int, ensemble: bool = False, batch_size: int = 8
        ) -> Tensor:
    """The teacher's answer on a whole image, from windows of the training's patch size.

    Within a window all is as in training. Where windows overlap, nearly everywhere four of them, their answers are
    averaged, the less the nearer to a window's edge; each window is turned or flipped another way. So the answer is,
    as over the draws of a training that asks at every step, a mean over places and symmetries; and no patch sees a
    zero border where the image goes on.

    Args:
        net: image to image of the same size, in eval.
        image: (C, H, W), in the units of net, on its device.
        window: side of the windows in pixels; a smaller image is one window.
        ensemble: each window in all eight symmetries.
        batch_size: windows at a time.

    Returns:
        (C', H, W), float32.
    """
    height, width = (min(side, window) for side in image.shape[-2:])
    places = list(product(*(enumerate(spread(side, window)) for side in image.shape[-2:])))
    weight = _tent(height, image.device)[:, None] * _tent(width, image.device)
    total, weights = 0., image.new_zeros(image.shape[-2:])
    # neighbours, above and beside, differ; a batch holds one symmetry, as height and width may differ
    groups = [[(top, left) for (row, top), (column, left) in places if (3 * row + column) % len(SYMMETRIES) == number]
              for number in range(len(SYMMETRIES))]
    for symmetry, group in zip(SYMMETRIES, groups):
        for first in range(0, len(group), batch_size):
            batch = group[first:first + batch_size]
            views = torch.stack([image[:, top:top + window, left:left + window] for top, left in batch])
            if ensemble:
                answers = over_symmetries(net, views)
            else:
                view = turned(views, *symmetry).contiguous(memory_format=torch.channels_last)
                answers = turned_back(net(view).float(), *symmetry)
            if isinstance(total, float):
                total = answers.new_zeros(answers.shape[1], *image.shape[-2:])
            for answer, (top, left) in zip(answers, batch):
                total[:, top:top + height, left:left + width] += answer * weight
                weights[top:top + height, left:left + width] += weight
    return total / weights


def _tent(side: int, device: torch.device) -> Tensor:
    """1, 2, ... side / 2 ... 2, 1: no weight is zero, for the edge of an image is in one window alone."""
    distance = torch.arange(1, side + 1, device=device)
    return torch.minimum(distance, distance.flip(0)).float()
