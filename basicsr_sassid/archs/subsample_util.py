"""What AP-BSN, SDAP and AMSNet share: sub-images whose noise is all but white, masks, and refinement afterwards.

Tensor operations only, no loop over pixels or cells. Written from the papers' descriptions. Licence: Apache-2.0.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr_sassid.archs.unet_util import pad_to_multiple

REFINEMENTS = ('none', 'again', 'replace')


def shuffle_down(x: Tensor, stride: int) -> Tensor:
    """Pixel-shuffle downsampling: every ``stride``-th pixel, in all phases, on the batch axis.

    (N, C, H, W) -> (N * stride^2, C, H / stride, W / stride). Image n's phase (i, j), ``x[n, :, i::stride,
    j::stride]``, is at ``n * stride^2 + i * stride + j``. :func:`shuffle_up` is its inverse. H and W are multiples of
    stride; :func:`in_sub_images` pads.
    """
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // stride, stride, w // stride, stride).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(n * stride ** 2, c, h // stride, w // stride)


def shuffle_up(x: Tensor, stride: int) -> Tensor:
    """Undo :func:`shuffle_down`: (N * stride^2, C, H, W) -> (N, C, H * stride, W * stride)."""
    n, c, h, w = x.shape
    cells = x.reshape(n // stride ** 2, stride, stride, c, h, w).permute(0, 3, 4, 1, 5, 2)
    return cells.reshape(n // stride ** 2, c, h * stride, w * stride)


def to_mosaic(x: Tensor, stride: int, pad: int) -> Tensor:
    """Lay the phases of :func:`shuffle_down` side by side in one image, each with ``pad`` zeros around: AP-BSN's way.

    (N * stride^2, C, H, W) -> (N, C, stride * (H + 2 pad), stride * (W + 2 pad)).
    """
    x = F.pad(x, (pad,) * 4)
    n, c, h, w = x.shape
    tiles = x.reshape(n // stride ** 2, stride, stride, c, h, w).permute(0, 3, 1, 4, 2, 5)
    return tiles.reshape(n // stride ** 2, c, h * stride, w * stride)


def from_mosaic(x: Tensor, stride: int, pad: int) -> Tensor:
    """Undo :func:`to_mosaic`."""
    n, c, h, w = x.shape
    tiles = x.reshape(n, c, stride, h // stride, stride, w // stride).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(n * stride ** 2, c, h // stride, w // stride)
    return tiles[..., pad:h // stride - pad, pad:w // stride - pad]


def in_multiples(net: Callable[[Tensor], Tensor], x: Tensor, multiple_of: int) -> Tensor:
    """A network that wants sides that are multiples, on any H and W: mirrored to the right and below, then cropped."""
    h, w = x.shape[-2:]
    return net(pad_to_multiple(x, multiple_of, 'reflect'))[..., :h, :w]


def in_sub_images(net: Callable[[Tensor], Tensor], x: Tensor, stride: int, mosaic_pad: int | None = None) -> Tensor:
    """net on the phases of x, put together again; any H and W (the right and the bottom are mirrored).

    ``mosaic_pad``: the phases lie in one image, as in :func:`to_mosaic`; None: they are a batch.
    """
    def on_phases(y: Tensor) -> Tensor:
        phases = shuffle_down(y, stride)
        if mosaic_pad is None:
            return shuffle_up(net(phases), stride)
        return shuffle_up(from_mosaic(net(to_mosaic(phases, stride, mosaic_pad)), stride, mosaic_pad), stride)
    return in_multiples(on_phases, x, stride)


def random_sub_images(x: Tensor, stride: int, generator: torch.Generator | None = None) -> Tensor:
    """SDAP's random sub-samples: in every stride x stride cell, and for every image, the pixels in a random order.

    (N, C, H, W) -> (stride^2, N, C, H / stride, W / stride): sub-image k holds each cell's k-th pixel; the channels go
    together; all of them hold every pixel once. H and W are multiples of stride.
    """
    n, c, h, w = x.shape
    cells = x.reshape(n, c, h // stride, stride, w // stride, stride).permute(0, 2, 4, 3, 5, 1)
    cells = cells.reshape(n, h // stride, w // stride, stride ** 2, c)
    order = torch.rand(cells.shape[:4], generator=generator, device=x.device).argsort(dim=-1)
    return cells.gather(3, order[..., None].expand_as(cells)).permute(3, 0, 4, 1, 2)


def random_parts(x: Tensor, parts: int, generator: torch.Generator | None = None) -> Tensor:
    """(parts, N, 1, H, W) bool: every pixel of x, all channels together, is in exactly one part, drawn at random."""
    drawn = torch.randint(parts, (x.shape[0], 1, *x.shape[2:]), generator=generator, device=x.device)
    return drawn == torch.arange(parts, device=x.device).view(-1, 1, 1, 1, 1)


def fill_masked(net: Callable[[Tensor], Tensor], x: Tensor, parts: int, generator: torch.Generator | None = None
                ) -> Tensor:
    """AMSNet's multi-mask answer: each part of the pixels is predicted while it is hidden (zero)."""
    return sum(net(x * ~hidden) * hidden for hidden in random_parts(x, parts, generator))


def replace_and_refine(net: Callable[[Tensor], Tensor], noisy: Tensor, denoised: Tensor, share: float = 0.16,
                       times: int = 8, by_channel: bool = False, generator: torch.Generator | None = None) -> Tensor:
    """Random-replacing refinement (R3 of AP-BSN): put noisy pixels back at random, denoise again, average.

    Args:
        net: on whole images.
        noisy, denoised: (N, C, H, W).
        share: of the pixels that are replaced.
        times: draws that are averaged, one after another: memory does not grow with them.
        by_channel: draw each channel apart (AP-BSN), or all of a pixel together (AMSNet).
        generator: of the draws, on noisy's device.
    """
    n, c, h, w = noisy.shape
    total = torch.zeros_like(denoised)
    for _ in range(times):
        drawn = torch.rand(n, c if by_channel else 1, h, w, generator=generator, device=noisy.device)
        total += net(torch.where(drawn < share, noisy, denoised))
    return total / times


def denoise_in_passes(net: Callable[[Tensor], Tensor], x: Tensor, stride: int = 1, parts: int = 0,
                      mosaic_pad: int | None = None, refine: str = 'none', share: float = 0.16, times: int = 8,
                      by_channel: bool = False, multiple_of: int = 1, seed: int = 0) -> Tensor:
    """The answer of a network that was trained on sub-images: (N, C, H, W) -> (N, C, H, W), any H and W.

    Args:
        net: the network.
        stride: of the sub-images of the first pass; 1: the image itself.
        parts: 0: the network does not see the pixel that it predicts. Else the pixels are hidden in so many parts.
        mosaic_pad: the sub-images lie in one image with so many zeros around each, and refinement mirrors as many
            pixels around the image, as released with AP-BSN; None: they are images of a batch.
        refine: what follows at full size: ``'none'``; ``'again'``: one more pass on the result (SDAP's "E");
            ``'replace'``: :func:`replace_and_refine`, with ``share``, ``times``, ``by_channel``.
        multiple_of: what the network's input must be a multiple of; 1 for all of ours.
        seed: of the draws: the same image gives the same result.

    Raises:
        ValueError: ``refine`` is none of these.
    """
    if refine not in REFINEMENTS:
        raise ValueError(f'refine: expected one of {", ".join(REFINEMENTS)}, got {refine!r}')
    generator = torch.Generator(x.device).manual_seed(seed)

    def fitted(y: Tensor) -> Tensor:
        return in_multiples(net, y, multiple_of).float()  # what is summed and put together is so in float32

    def answer(y: Tensor) -> Tensor:
        return fill_masked(fitted, y, parts, generator) if parts else fitted(y)

    def within_mirrors(y: Tensor) -> Tensor:
        if not mosaic_pad:
            return answer(y)
        mode = 'reflect' if min(y.shape[-2:]) > mosaic_pad else 'replicate'  # too small for that: its edge
        return answer(F.pad(y, (mosaic_pad,) * 4, mode=mode))[..., mosaic_pad:-mosaic_pad, mosaic_pad:-mosaic_pad]
    result = in_sub_images(answer, x, stride, mosaic_pad)
    if refine == 'again':
        return answer(result)
    if refine == 'replace':
        return replace_and_refine(within_mirrors, x, result, share, times, by_channel, generator)
    return result
