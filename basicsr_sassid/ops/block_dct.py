"""Overlapping 16x16 blocks of an image, transformed by a DCT: batched matrix products, strip by strip of block rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

BLOCK = 16  # pixels a side
STRIDE = 4  # pixels between the blocks of one grid
_PHASES = BLOCK // STRIDE  # blocks that cover a pixel, in each direction
MARGIN = _PHASES - 1  # rows of zeros that `synthesise` wants on each side of a strip
_STRIP_BYTES = {'cpu': 2**24, 'cuda': 2**28}  # of the spectra of a strip: they stay in a CPU's last cache


# Shrink the spectra of blocks in place, and return the blocks' weights, (C, R, N). Called with the spectra and those of
# the pilot, (C, R, 16, 16 * N): coefficients (u, v) of R rows of N blocks, the block and v in the last axis. Without a
# pilot the second is scratch memory.
Shrink = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@functools.lru_cache(64)
def dct_matrix(size: int, device: torch.device | None = None) -> torch.Tensor:
    """(size, size): rows are the orthonormal DCT's basis functions."""
    frequencies = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / size * frequencies[:, None] * (frequencies + 0.5)) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis.float().to(device)


@functools.lru_cache(64)
def halving_matrix(size: int, device: torch.device | None = None) -> torch.Tensor:
    """(size / 2, size): keeps the lower half of the DCT's frequencies, and the mean."""
    half = dct_matrix(size // 2, device)
    return half.T @ dct_matrix(size, device)[: size // 2] / math.sqrt(2)


@functools.lru_cache(8)
def _synthesis_matrix(device: torch.device | None = None) -> torch.Tensor:
    """(4, 64): four rows of pixels are the sum of the four blocks above each other that cover them."""
    basis = dct_matrix(BLOCK, device)
    covering = [basis[:, start : start + STRIDE].T for start in range(BLOCK - STRIDE, -1, -STRIDE)]
    return torch.cat(covering, dim=1).contiguous()


def spread_by_block(values: torch.Tensor, columns: int) -> torch.Tensor:
    """(C, 16, 16) of coefficients -> (C, 1, 16, 16 * columns), as ``Shrink`` has spectra."""
    return values[:, None].repeat(1, 1, 1, columns)


def count_blocks(side: int) -> int:
    """Number of blocks of a grid along a side of this many pixels."""
    return (side - BLOCK) // STRIDE + 1


def strip_rows(channels: int, columns: int, device: torch.device) -> int:
    """Number of block rows of a strip, so that its spectra take a bounded amount of memory."""
    return max(_STRIP_BYTES.get(device.type, _STRIP_BYTES['cpu']) // (4 * channels * columns * BLOCK**2), 1)


def analyse(planes: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """DCT of all blocks of a strip.

    Args:
        planes: (C, 4 * (R - 1) + 16, W).
        out: (C, R, 16, 16 * N), N = (W - 16) / 4 + 1, is overwritten and returned.
    """
    basis = dct_matrix(BLOCK, planes.device)
    windows = planes.unfold(2, BLOCK, STRIDE)
    across = (windows.reshape(-1, BLOCK) @ basis.T).view(*planes.shape[:2], -1)  # (C, height, 16 * N)
    for channel, result in zip(across, out):
        torch.bmm(basis.expand(len(result), -1, -1), channel.unfold(0, BLOCK, STRIDE).transpose(1, 2), out=result)
    return out


def synthesise(spectra: torch.Tensor) -> torch.Tensor:
    """Transform the blocks of a strip back and add them where they overlap.

    Args:
        spectra: (C, R + 6, 16, 16 * N), contiguous: R rows of blocks between three rows of zeros on each side.

    Returns:
        (C, 4 * (R + 3), 4 * (N + 3)).
    """
    channels, padded, _, width = spectra.shape
    rows, columns = padded - MARGIN, width // BLOCK
    matrix = _synthesis_matrix(spectra.device).expand(rows, -1, -1)
    covering = (s.flatten(0, 1).unfold(0, _PHASES * BLOCK, BLOCK).transpose(1, 2) for s in spectra)
    down = torch.stack([torch.bmm(matrix, blocks) for blocks in covering])
    across = (down.view(-1, BLOCK) @ dct_matrix(BLOCK, spectra.device)).view(-1, columns, _PHASES, STRIDE)
    total = across.new_zeros(len(across), columns + MARGIN, STRIDE)
    for phase in range(_PHASES):
        total[:, phase : phase + columns] += across[:, :, phase]
    return total.view(channels, rows * STRIDE, -1)


class OverlapAdd:
    """Weighted mean of overlapping blocks that arrive strip by strip, from one grid or from several.

    Args:
        shape: (C, H, W) of the result.
    """

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.total = torch.zeros(shape, device=device)
        self.weight = torch.zeros(shape, device=device)

    def add(self, blocks: torch.Tensor, first_row: int, offset: int = 0) -> None:
        """Add weighted blocks: (C, h, w), the result of :func:`synthesise` whose first block is in ``first_row``."""
        top = offset + STRIDE * first_row
        self.total[:, top : top + blocks.shape[1], offset : offset + blocks.shape[2]] += blocks

    def add_weights(self, weights: torch.Tensor, offset: int = 0) -> None:
        """Add the weights of all blocks of a grid: (C, R, N)."""
        kernel = weights.new_ones(1, 1, _PHASES, _PHASES)
        cells = F.conv2d(weights[:, None], kernel, padding=MARGIN)[:, 0]
        pixels = cells.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
        self.weight[:, offset : offset + pixels.shape[1], offset : offset + pixels.shape[2]] += pixels

    def mean(self) -> torch.Tensor:
        """(C, H, W)."""
        return self.total.div_(self.weight)


def shrink_blocks(
    planes: torch.Tensor, make_shrink: Callable[[int], Shrink], pilot: torch.Tensor | None = None, grids: int = 1
) -> torch.Tensor:
    """Shrink the spectra of all blocks, and average the blocks where they overlap.

    Args:
        planes: (C, H, W), sides 16 + a multiple of 4.
        make_shrink: number of blocks in a row -> what is done with the spectra.
        pilot: (C, H, W), an estimate of the signal.
        grids: 1, or 2 for twice as many blocks; the second grid is shifted by two pixels both ways.

    Returns:
        (C, H, W).
    """
    result = OverlapAdd(planes.shape, planes.device)
    for offset in range(0, grids * STRIDE // 2, STRIDE // 2):
        if min(planes.shape[1:]) < BLOCK + 2 * offset:
            continue
        inside = (..., slice(offset, planes.shape[1] - offset), slice(offset, planes.shape[2] - offset))
        weights = _shrink_grid(result, planes[inside], None if pilot is None else pilot[inside], make_shrink, offset)
        result.add_weights(weights, offset)
    return result.mean()


def _shrink_grid(
    result: OverlapAdd,
    planes: torch.Tensor,
    pilot: torch.Tensor | None,
    make_shrink: Callable[[int], Shrink],
    offset: int,
) -> torch.Tensor:
    channels = len(planes)
    rows, columns = count_blocks(planes.shape[1]), count_blocks(planes.shape[2])
    step = min(strip_rows(channels, columns, planes.device), rows)
    shrink = make_shrink(columns)
    # allocated once: the pages of a new array cost more than what is computed in it
    padded = planes.new_zeros(channels, step + 2 * MARGIN, BLOCK, columns * BLOCK)
    scratch = planes.new_empty(channels, step, BLOCK, columns * BLOCK)
    weights = planes.new_empty(channels, rows, columns)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        if count < step:
            padded = padded[:, : count + 2 * MARGIN].contiguous()
            padded[:, -MARGIN:] = 0
        box = slice(STRIDE * first, STRIDE * (first + count - 1) + BLOCK)
        spectra = analyse(planes[:, box], padded[:, MARGIN:-MARGIN])
        if pilot is not None:
            analyse(pilot[:, box], scratch[:, :count])
        weight = shrink(spectra, scratch[:, :count])
        spectra.mul_(weight.repeat_interleave(BLOCK, 2)[:, :, None])
        result.add(synthesise(padded), first, offset)
        weights[:, first : first + count] = weight
    return weights
