"""Sub-images and masks of AP-BSN, SDAP and AMSNet: pixel-shuffle downsampling (PD), random sub-samples, mask
partitions.

Tensor operations only, no loop over pixels or cells. Written from the papers' descriptions. Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr_sassid.ops.padding import forward_padded


def pd_down(x: Tensor, stride: int) -> Tensor:
    """Pixel-shuffle downsampling: every ``stride``-th pixel, in all phases, on the batch axis.

    (N, C, H, W) -> (N * stride^2, C, H / stride, W / stride). Phase (i, j) of image n, ``x[n, :, i::stride,
    j::stride]``, is at ``n * stride^2 + i * stride + j``. :func:`pd_up` is the inverse. H and W are multiples of
    stride; :func:`pd_forward` pads.
    """
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // stride, stride, w // stride, stride).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(n * stride**2, c, h // stride, w // stride)


def pd_up(x: Tensor, stride: int) -> Tensor:
    """Inverse of :func:`pd_down`: (N * stride^2, C, H, W) -> (N, C, H * stride, W * stride)."""
    n, c, h, w = x.shape
    cells = x.reshape(n // stride**2, stride, stride, c, h, w).permute(0, 3, 4, 1, 5, 2)
    return cells.reshape(n // stride**2, c, h * stride, w * stride)


def to_mosaic(x: Tensor, stride: int, pad: int) -> Tensor:
    """Lay the phases of :func:`pd_down` side by side in one image, each with ``pad`` zeros around it, as AP-BSN does.

    (N * stride^2, C, H, W) -> (N, C, stride * (H + 2 pad), stride * (W + 2 pad)).
    """
    x = F.pad(x, (pad,) * 4)
    n, c, h, w = x.shape
    tiles = x.reshape(n // stride**2, stride, stride, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(n // stride**2, c, h * stride, w * stride)


def from_mosaic(x: Tensor, stride: int, pad: int) -> Tensor:
    """Inverse of :func:`to_mosaic`."""
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, stride, h // stride, stride, w // stride).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(n * stride**2, c, h // stride, w // stride)
    return tiles[..., pad : h // stride - pad, pad : w // stride - pad]


def pd_forward(net: Callable[[Tensor], Tensor], x: Tensor, stride: int, pad: int | None = None) -> Tensor:
    """Apply net to the PD phases of x and reassemble the results; any H and W (mirrored padding).

    Args:
        net: image to image of the same size.
        x: (N, C, H, W).
        stride: distance of a sub-image's pixels in x.
        pad: the phases lie in one image with so many zeros around each, as in :func:`to_mosaic`; None: they are a
            batch.
    """

    def on_phases(y: Tensor) -> Tensor:
        phases = pd_down(y, stride)
        if pad is None:
            return pd_up(net(phases), stride)
        return pd_up(from_mosaic(net(to_mosaic(phases, stride, pad)), stride, pad), stride)

    return forward_padded(on_phases, x, stride)


def random_sub_images(x: Tensor, stride: int, generator: torch.Generator | None = None) -> Tensor:
    """SDAP's random sub-samples: in every stride x stride cell of every image the pixels in a random order.

    (N, C, H, W) -> (stride^2, N, C, H / stride, W / stride): sub-image k consists of the k-th pixel of each cell, all
    channels together; every pixel is in one sub-image. H and W are multiples of stride.
    """
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // stride, stride, w // stride, stride).permute(0, 2, 4, 3, 5, 1)
    cells = cells.reshape(n, h // stride, w // stride, stride**2, c)
    order = torch.rand(cells.shape[:4], generator=generator, device=x.device).argsort(dim=-1)
    return cells.gather(3, order[..., None].expand_as(cells)).permute(3, 0, 4, 1, 2)


def random_partition(x: Tensor, num_masks: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw masks that partition the pixels of x: (num_masks, N, 1, H, W) bool.

    Every pixel, all channels together, is in exactly one mask.
    """
    drawn = torch.randint(num_masks, (x.shape[0], 1, *x.shape[2:]), generator=generator, device=x.device)
    return drawn == torch.arange(num_masks, device=x.device).view(-1, 1, 1, 1, 1)


def masked_inference(
    net: Callable[[Tensor], Tensor], x: Tensor, num_masks: int, generator: torch.Generator | None = None
) -> Tensor:
    """AMSNet's multi-mask prediction: the pixels of each mask are predicted while they are set to zero."""
    total: Tensor | None = None
    for hidden in random_partition(x, num_masks, generator):
        prediction = net(x * ~hidden) * hidden
        total = prediction if total is None else total + prediction
    assert total is not None
    return total


def random_replacing_refinement(
    net: Callable[[Tensor], Tensor],
    noisy: Tensor,
    denoised: Tensor,
    r3_p: float = 0.16,
    r3_t: int = 8,
    per_channel: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random-replacing refinement (R3 of AP-BSN): put noisy pixels back at random, denoise again, average.

    Args:
        net: applied to whole images.
        noisy, denoised: (N, C, H, W).
        r3_p: probability that a pixel is replaced.
        r3_t: number of draws that are averaged, one after another: memory does not grow with it.
        per_channel: draw each channel apart (AP-BSN), or all channels of a pixel together (AMSNet).
        generator: of the draws, on the device of noisy.
    """
    n, c, h, w = noisy.shape
    total = torch.zeros_like(denoised)
    for _ in range(r3_t):
        drawn = torch.rand(n, c if per_channel else 1, h, w, generator=generator, device=noisy.device)
        total += net(torch.where(drawn < r3_p, noisy, denoised))
    return total / r3_t
