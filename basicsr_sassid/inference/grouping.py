"""Similar blocks of an image, filtered together (Dabov et al., 2007; with correlated noise Mäkinen et al., 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from basicsr_sassid.noise.spectrum import block_covariances
from basicsr_sassid.ops.block_dct import (
    BLOCK,
    MARGIN,
    STRIDE,
    OverlapAdd,
    analyse,
    count_blocks,
    dct_matrix,
    strip_rows,
    synthesise,
)

GROUP = 8  # blocks
REACH = 3  # blocks of the grid, in each direction, among which a group is chosen
_EVERY = 2  # blocks of the grid: distance of the blocks that groups are formed around
_BATCH = 128  # groups that are filtered at a time
_PILOT_WEIGHT = 1e-9  # for pixels at the border that are in no group
_SPAN = 4 * REACH + 1  # distances in the grid of two blocks of a group, in one direction


class GroupedWiener:
    """Wiener filter of groups of similar blocks, which takes its signal power and the groups from a pilot.

    Around every second block of the grid the 8 most similar of 7x7 blocks are chosen, by the squared difference of the
    pilot's first plane. A DCT along the group follows the DCTs of its blocks. The variance of the noise in the group's
    mean follows from the covariance of all pairs of its blocks, which is not zero where they overlap; the other
    coefficients of the group share the rest of the variance. Blocks of several groups are averaged, weighted by the
    inverse of the noise that is left in each group.

    Args:
        power: (C, 16, 16), the noise's variance in each coefficient.
        covariance: of :func:`covariance_table`.
    """

    def __init__(self, power: torch.Tensor, covariance: torch.Tensor) -> None:
        self.power, self.covariance = power.flatten(), covariance

    @staticmethod
    def has_room(shape: torch.Size) -> bool:
        """Whether planes (C, H, W) have blocks enough for groups."""
        return min(count_blocks(side) for side in shape[1:]) > REACH

    def __call__(self, planes: torch.Tensor, pilot: torch.Tensor) -> torch.Tensor:
        """Denoise (C, H, W), sides 16 + a multiple of 4, given an estimate of the same shape."""
        channels = len(planes)
        rows, columns = (count_blocks(side) for side in planes.shape[1:])
        shifts = most_similar(pilot[0])
        result = OverlapAdd(planes.shape, planes.device)
        result.total.add_(pilot, alpha=_PILOT_WEIGHT)
        result.weight.add_(_PILOT_WEIGHT)
        weights = planes.new_zeros(rows, columns, channels)
        step = min(max(strip_rows(channels, columns, planes.device) // _EVERY, 4) * _EVERY, rows + rows % _EVERY)
        strips = [planes.new_empty(step + 2 * REACH, columns, channels, BLOCK, BLOCK) for _ in range(3)]
        for first in range(0, rows, step):
            start, stop = max(first - REACH, 0), min(first + step + REACH, rows)
            box = slice(STRIDE * start, STRIDE * (stop - 1) + BLOCK)
            noisy, clean, total = (strip[: stop - start] for strip in strips)
            _analyse_rows(planes[:, box], noisy)
            _analyse_rows(pilot[:, box], clean)
            total.zero_()
            here = shifts[:, first // _EVERY : (first + step) // _EVERY]
            spectra = [strip.flatten(2).flatten(0, 1) for strip in (noisy, clean, total)]
            self._filter(spectra, here, first - start, weights[start:stop])
            result.add(_synthesise_rows(total), start)
        result.add_weights(weights.permute(2, 0, 1).contiguous())
        return result.mean()

    def _filter(self, strips: list[torch.Tensor], shifts: torch.Tensor, first: int, weights: torch.Tensor) -> None:
        """Filter the groups of a strip, and add their blocks and weights in place.

        Args:
            strips: three of (rows * N, C * 256): the spectra of the strip's blocks, those of the pilot, and where the
                filtered blocks are added.
            shifts: (8, rows, columns, 2), of the members of each group, in blocks.
            first: row of the strip's blocks around which the first groups are.
            weights: (rows, N, C), where the weights are added.
        """
        noisy, pilot, total = strips
        columns, channels = weights.shape[1:]
        down = first + _EVERY * torch.arange(shifts.shape[1], device=shifts.device)[:, None]
        across = _EVERY * torch.arange(shifts.shape[2], device=shifts.device)
        members = ((down + shifts[..., 0]) * columns + across + shifts[..., 1]).flatten(1)
        distances = (shifts[..., 0] * _SPAN + shifts[..., 1]).flatten(1)
        transform = dct_matrix(GROUP, noisy.device)
        scratch = [noisy.new_empty(GROUP * _BATCH, noisy.shape[1]) for _ in range(3)]
        for batch, distance in zip(members.split(_BATCH, dim=1), distances.split(_BATCH, dim=1)):
            index = batch.flatten()
            blocks, spectra, gain = (array[: len(index)] for array in scratch)
            for source, result in ((noisy, spectra), (pilot, gain)):
                torch.index_select(source, 0, index, out=blocks)
                torch.mm(transform, blocks.view(GROUP, -1), out=result.view(GROUP, -1))
            grouped, pilot_grouped = (array.view(GROUP, -1, array.shape[1]) for array in (spectra, gain))
            weight = self._shrink(grouped, pilot_grouped, distance)
            torch.mm(transform.T, spectra.view(GROUP, -1), out=blocks.view(GROUP, -1))
            total.index_add_(0, index, blocks)
            weights.view(-1, channels).index_add_(0, index, weight.repeat(GROUP, 1))

    def _shrink(self, spectra: torch.Tensor, pilot: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """Shrink the spectra of groups, (8, groups, C * 256), in place, and weigh the groups.

        Returns:
            (groups, C): the weights, by which the spectra were multiplied.
        """
        channels = len(self.power) // BLOCK**2
        mean, other = self._variances(distances)
        gain = pilot.mul_(pilot).add_(1e-12)
        spectra[0].mul_(gain[0].div_(gain[0] + mean))
        gain[1:].div_(gain[1:] + other)
        spectra[1:].mul_(gain[1:])
        gain.mul_(gain)
        left = gain[0] * mean + gain[1:].sum(dim=0) * other
        weight = 1 / left.unflatten(1, (channels, -1)).sum(dim=2).clamp_(min=1e-6)
        spectra.unflatten(2, (channels, -1)).mul_(weight[:, :, None])
        return weight

    def _variances(self, distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(8, groups) -> (groups, C * 256) twice: of the mean of each group, and of its other coefficients."""
        size = len(distances)
        pairs = (distances[:, None] - distances).abs().flatten(0, 1).T
        counts = torch.zeros(len(pairs), len(self.covariance), device=pairs.device)
        counts.scatter_add_(1, pairs, counts.new_ones(()).expand(pairs.shape))
        every = size * self.power  # the transform is orthonormal
        mean = (counts @ self.covariance).div_(size).clamp_(min=1e-4)
        mean = torch.minimum(mean, every)
        return mean, ((every - mean) / (size - 1)).clamp_(min=1e-4)


def covariance_table(covariance: np.ndarray) -> torch.Tensor:
    """Covariance of each coefficient in two blocks of a group, by their distance in the grid.

    Args:
        covariance: (C, 25, 25), of the noise by distance in pixels, see :func:`scale_covariances`.

    Returns:
        (D, C * 256): blocks that are (rows, columns) apart are row ``rows * 13 + columns``; distances of opposite sign
        are alike.
    """
    farthest = 2 * REACH
    rows = ((down, across) for down in range(farthest + 1) for across in range(-farthest, farthest + 1))
    distances = [(STRIDE * down, STRIDE * across) for down, across in rows if down * _SPAN + across >= 0]
    table = block_covariances(covariance, BLOCK, distances)
    return torch.from_numpy(table.reshape(len(table), -1).astype(np.float32))


def most_similar(plane: torch.Tensor) -> torch.Tensor:
    """(8, R, N, 2): distances (rows, columns), in blocks of the grid, of the blocks most like every second one.

    Args:
        plane: (H, W); cells of 2x2 pixels are compared by their means.
    """
    cells = F.pixel_unshuffle(F.avg_pool2d(plane[None, None], 2), STRIDE // 2)[0]  # (4, H / 4, W / 4)
    padded = F.pad(cells, (REACH,) * 4, value=1e4)
    height, width = cells.shape[1:]
    shifts = [(down, across) for down in range(-REACH, REACH + 1) for across in range(-REACH, REACH + 1)]
    squares = torch.stack(
        [
            (cells - padded[:, REACH + down :, REACH + across :][:, :height, :width]).square_().sum(dim=0)
            for down, across in shifts
        ]
    )
    distances = F.avg_pool2d(squares[None], BLOCK // STRIDE, 1)[0, :, ::_EVERY, ::_EVERY]
    nearest = distances.topk(GROUP, dim=0, largest=False).indices
    return torch.tensor(shifts, device=plane.device)[nearest]


def _analyse_rows(planes: torch.Tensor, out: torch.Tensor) -> None:
    """Write the spectrum of each block to ``out``, (rows, N, C, 16, 16)."""
    rows, columns, channels = out.shape[:3]
    spectra = analyse(planes, planes.new_empty(channels, rows, BLOCK, columns * BLOCK))
    out.copy_(spectra.view(channels, rows, BLOCK, columns, BLOCK).permute(1, 3, 0, 2, 4))


def _synthesise_rows(spectra: torch.Tensor) -> torch.Tensor:
    """Transform blocks (rows, N, C, 16, 16) back and add them where they overlap."""
    rows, columns, channels = spectra.shape[:3]
    padded = spectra.new_empty(channels, rows + 2 * MARGIN, BLOCK, columns, BLOCK)
    padded[:, :MARGIN] = 0
    padded[:, -MARGIN:] = 0
    padded[:, MARGIN:-MARGIN] = spectra.permute(2, 0, 3, 1, 4)
    return synthesise(padded.flatten(3))
