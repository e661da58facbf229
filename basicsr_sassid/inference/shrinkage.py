"""Shrinkage of block DCT coefficients at three scales: first by a threshold, then by a Wiener filter."""

from __future__ import annotations

import dataclasses

import torch

from basicsr_sassid.inference.grouping import GroupedWiener
from basicsr_sassid.ops.block_dct import BLOCK, Shrink, dct_matrix, halving_matrix, shrink_blocks, spread_by_block

_THRESHOLD = 3.2  # standard deviations of a coefficient's noise


@dataclasses.dataclass(frozen=True)
class Shrinkage:
    """How planes with noise of variance 1 are denoised.

    Attributes:
        powers: for each scale, the finest first, (C, 16, 16): the noise's variance in each DCT coefficient.
        covariances: for each scale, of those coefficients in two blocks, see :func:`covariance_table`; None filters
            every block alone.
        grids: 1, or 2 for twice as many blocks.
        coarse_band: fraction of a coarser scale's frequencies that replace the finer scale's.
    """

    powers: list[torch.Tensor]
    covariances: list[torch.Tensor] | None = None
    grids: int = 2
    coarse_band: float = 0.25

    def __call__(self, planes: torch.Tensor, scale: int = 0) -> torch.Tensor:
        """Denoise (C, H, W), sides multiples of 4 * 2^(scales - 1), at this scale and the coarser ones."""
        clean = self._denoise(planes, scale)
        if scale + 1 == len(self.powers):
            return clean
        device = planes.device
        height, width = planes.shape[1:]
        coarse = halving_matrix(height, device) @ planes @ halving_matrix(width, device).T
        coarse = self(coarse, scale + 1)
        rows, columns = (int(self.coarse_band * (side // 2)) for side in (height, width))
        down, across = dct_matrix(height, device)[:rows], dct_matrix(width, device)[:columns]
        coarse_down = dct_matrix(height // 2, device)[:rows]
        coarse_across = dct_matrix(width // 2, device)[:columns]
        change = 2 * (coarse_down @ coarse @ coarse_across.T) - down @ clean @ across.T
        return clean + down.T @ change @ across

    def with_gain(self, gain: torch.Tensor) -> Shrinkage:
        """The same for planes whose noise has the standard deviation ``gain``, (C,)."""
        square = gain[:, None, None] ** 2
        powers = [power * square for power in self.powers]
        if self.covariances is None:
            return dataclasses.replace(self, powers=powers)
        tables = [(table.unflatten(1, (len(gain), -1)) * square[..., 0]).flatten(1) for table in self.covariances]
        return dataclasses.replace(self, powers=powers, covariances=tables)

    def _denoise(self, planes: torch.Tensor, scale: int) -> torch.Tensor:
        """At one scale."""
        power = self.powers[scale]
        pilot = shrink_blocks(planes, lambda columns: _threshold(power, columns), grids=self.grids)
        if self.covariances is not None:
            grouped = GroupedWiener(power, self.covariances[scale])
            if grouped.has_room(planes.shape):
                return grouped(planes, pilot)
        return shrink_blocks(planes, lambda columns: _wiener(power, columns), pilot, self.grids)


def _threshold(power: torch.Tensor, columns: int) -> Shrink:
    """Keep the mean of a block, and coefficients above the noise."""
    limit = _THRESHOLD**2 * power
    limit[:, 0, 0] = -1
    limit, power = spread_by_block(limit, columns), spread_by_block(power, columns)

    def shrink(spectra: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        torch.mul(spectra, spectra, out=kept)
        kept.gt_(limit)
        spectra.mul_(kept)
        return 1 / _sum_over_coefficients(kept.mul_(power))

    return shrink


def _wiener(power: torch.Tensor, columns: int) -> Shrink:
    """The Wiener filter whose signal power is that of the pilot."""
    power = spread_by_block(power, columns)

    def shrink(spectra: torch.Tensor, pilot: torch.Tensor) -> torch.Tensor:
        gain = pilot.mul_(pilot).add_(power)  # signal / (signal + noise) = 1 - noise / (signal + noise)
        torch.div(power, gain, out=gain).neg_().add_(1)
        spectra.mul_(gain)
        return 1 / _sum_over_coefficients(gain.mul_(gain).mul_(power)).clamp_(min=1e-6)

    return shrink


def _sum_over_coefficients(values: torch.Tensor) -> torch.Tensor:
    """(C, R, 16, 16 * N) -> (C, R, N)."""
    return values.sum(dim=2).unflatten(2, (-1, BLOCK)).sum(dim=3)
