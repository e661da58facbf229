"""Weights of a student's targets per pixel, from noisy images alone.

A BNN predicts with several blind sizes: small ones keep texture, large ones average more noise. SASSID's alpha (eq. 3)
weights two teachers by the local standard deviation; here are its forms for any number of targets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from basicsr_sassid.inference.sure import PROBE_STEP, draw_probe
from basicsr_sassid.losses.selective_loss import local_std, texture_map
from basicsr_sassid.noise.model import NoiseModel

_BINS = 8  # of the local standard deviation, each with as many pixels
_LEAST_PIXELS = 4096  # of a bin
_RIDGE = 0.1  # of the mean risk, added to each: the weights do not follow the estimate's own error
WINDOW = 7  # pixels, of the local standard deviation

Predict = Callable[[Tensor], Tensor]  # (N, C, H, W) -> (N, K, C, H, W), in grey levels


def texture_weights(targets: Tensor, window: int = WINDOW, lower: float = 1.0, upper: float = 5.0) -> Tensor:
    """SASSID's alpha for any number of targets: a fixed monotone map of the local standard deviation.

    The place ``(1 - alpha) * (K - 1)`` lies between two targets, which share the weight linearly. For K = 2 these are
    the paper's weights, alpha and 1 - alpha, times 2.

    Args:
        targets: (N, K, C, H, W) in grey levels, in the order from texture (small blind size) to flat areas.
        window, lower, upper: see :func:`texture_map`.

    Returns:
        (N, K, 1, H, W), of mean 1 over K.
    """
    count = targets.shape[1]
    place = (1 - texture_map(targets.mean(dim=1), window, lower, upper)) * (count - 1)
    return count * torch.stack([(1 - (place - number).abs()).clamp_min(0) for number in range(count)], dim=1)


@dataclasses.dataclass(frozen=True)
class RiskWeights:
    """Weights of the least estimated risk, by bins of the local standard deviation.

    Attributes:
        edges: (B - 1,), local standard deviations between the bins, in grey levels, ascending.
        table: (B, K), weights of the targets in each bin, >= 0, of mean 1 over K.
    """

    edges: Tensor
    table: Tensor

    def __call__(self, targets: Tensor) -> Tensor:
        """(N, K, C, H, W) in grey levels -> (N, K, 1, H, W)."""
        bins = torch.bucketize(local_std(targets.mean(dim=1), WINDOW), self.edges.to(targets.device))
        return self.table.to(targets.device)[bins].permute(0, 4, 1, 2, 3)

    def to_dict(self) -> dict[str, Any]:
        """Edges and rows of the table, as values that JSON has."""
        return {'edges': self.edges.tolist(), 'table': self.table.tolist()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RiskWeights:
        """Inverse of :meth:`to_dict`. Raises ValueError, TypeError or KeyError for other content."""
        edges, table = (np.asarray(content[name], np.float32) for name in ('edges', 'table'))
        if edges.ndim != 1 or table.ndim != 2 or len(table) != len(edges) + 1:
            raise ValueError(f'expected B - 1 edges and a table (B, K), got {edges.shape} and {table.shape}')
        is_table = np.isfinite(table).all() and (table >= 0).all() and (table.sum(axis=1) > 0).all()
        if not is_table or not np.isfinite(edges).all() or (np.diff(edges) < 0).any():
            raise ValueError(f'expected ascending edges and weights >= 0, got {edges} and {table}')
        return cls(torch.from_numpy(edges), torch.from_numpy(table))


@dataclasses.dataclass(frozen=True)
class TargetRisks:
    """What :func:`measure_risks` found.

    Attributes:
        edges: see :class:`RiskWeights`.
        covariance: (B, K, K), estimated mean products of the targets' errors in each bin, grey levels squared; the
            diagonal is the risk.
        pixels: (B,), fraction of the pixels in each bin.
        noise_kept: (K,), fraction of the noise that is in each target: 1 for the noisy image itself.
    """

    edges: Tensor
    covariance: np.ndarray
    pixels: np.ndarray
    noise_kept: np.ndarray

    @property
    def risks(self) -> np.ndarray:
        """(K,), estimated mean squared error of each target, grey levels squared."""
        return np.einsum('b,bkk->k', self.pixels, self.covariance)

    def weights(self) -> RiskWeights:
        """For each bin the weights >= 0 whose weighted mean of the targets has the least estimated risk."""
        table = np.stack([_least_risk(covariance) for covariance in self.covariance])
        return RiskWeights(self.edges, torch.from_numpy(table * table.shape[1]).float())


def measure_risks(predict: Predict, crops: Sequence[np.ndarray], noise: NoiseModel, seed: int = 0) -> TargetRisks:
    r"""Estimate the errors of K targets and their covariance without clean images, by Monte-Carlo SURE.

    .. math:: \mathrm{mean}\,(f_i - y)(f_j - y) - \sigma^2 + d_i + d_j, \quad
        d_i = \mathrm{mean}\,n' (f_i(y + \epsilon n') - f_i(y)) / \epsilon

    the mean product of the errors of f_i and f_j; for i = j it is Stein's estimate, see :func:`monte_carlo_sure`.
    The means are over the pixels of each bin of the local standard deviation of the targets' mean.

    Args:
        predict: noisy images to K targets, in grey levels.
        crops: noisy, (H, W, 3) float32 in [0, 1], one or more.
        noise: of the crops.
        seed: of the draws of noise.
    """
    stds, errors, divergences, variances, powers = [], [], [], [], []
    for number, crop in enumerate(crops):
        probe = draw_probe(crop, noise, (seed, number))
        noisy, direction, variance = (
            torch.from_numpy(np.ascontiguousarray(array, np.float32)).permute(2, 0, 1)[None]
            for array in (crop * np.float32(255), probe.direction, probe.variance)
        )
        targets, moved = predict(noisy), predict(noisy + PROBE_STEP * direction)
        stds.append(local_std(targets.mean(dim=1), WINDOW).flatten())
        errors.append((targets - noisy[:, None])[0].flatten(2))
        divergences.append((direction[:, None] * (moved - targets) / PROBE_STEP)[0].mean(dim=1).flatten(1))
        variances.append(variance[0].mean(dim=0).flatten())
        powers.append(direction.square().mean(dim=(0, 1)).flatten())
    std, error = torch.cat(stds), torch.cat(errors, dim=2)
    divergence, variance = torch.cat(divergences, dim=1), torch.cat(variances)
    edges = _bin_edges(std)
    bins = torch.bucketize(std, edges)
    covariance, pixels = [], []
    for number in range(len(edges) + 1):
        inside = bins == number
        pixels.append(inside.float().mean().item())
        of_bin, slope = error[:, :, inside].flatten(1).double(), divergence[:, inside].double().mean(dim=1)
        product = of_bin @ of_bin.T / of_bin.shape[1] - variance[inside].double().mean()
        covariance.append((product + slope[:, None] + slope[None]).numpy())
    # of the draws, whose variance differs from the model's where the measured correlation is that of no noise
    kept = (divergence.double().mean(dim=1) / torch.cat(powers).double().mean().clamp_min(1e-6)).numpy()
    return TargetRisks(edges, np.stack(covariance), np.array(pixels), kept)


def _bin_edges(std: Tensor) -> Tensor:
    """Edges of bins of as many pixels each; fewer bins where many values are equal, as in saturated areas: none of them
    is empty."""
    count = max(min(_BINS, len(std) // _LEAST_PIXELS), 1)
    edges = np.unique(np.quantile(std.numpy(), np.linspace(0, 1, count + 1)[1:-1], method='lower'))
    return torch.from_numpy(edges[edges < std.max().item()].astype(np.float32))


def _least_risk(covariance: np.ndarray) -> np.ndarray:
    """(K,): the weights w >= 0 of sum 1 with the least w' C w.

    An estimated covariance may have negative risks and eigenvalues; these are raised to zero, or a little above.
    """
    count = len(covariance)
    ridge = _RIDGE * covariance.diagonal().clip(0).mean()
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(count))
    root = (vectors * np.sqrt(values.clip(max(1e-3 * np.abs(values).max(), 1e-9)))).T
    # the sum of 1 as one more equation, of a weight that outweighs the others
    scale = 1e4 * np.abs(root).max()
    weights, _ = nnls(np.vstack([root, np.full(count, scale)]), np.append(np.zeros(count), scale))
    return weights / weights.sum()
