"""L1 to several targets at once, weighted per pixel (AT-BSN, Chen et al., CVPR 2024, arXiv 2303.16783, section 3.4).

Written from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn


@LOSS_REGISTRY.register()
class WeightedTargetsL1Loss(nn.Module):
    r"""Sum of the L1 distances to K targets.

    .. math:: \sum_k \mathrm{mean}\,(w_k \cdot |pred - target_k|)

    AT-BSN's students have w = 1 for every target and pixel. The sum of distances has a median of the targets for its
    minimum, not their mean.

    Args:
        loss_weight: factor of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Scalar loss.

        Args:
            pred: (N, C, H, W).
            targets: (N, K, C, H, W).
            weights: (N, K, 1, H, W), >= 0; None: 1 everywhere.
        """
        error = (pred[:, None] - targets).abs()
        if weights is not None:
            error = weights * error
        return self.loss_weight * error.mean() * targets.shape[1]


def recharge(targets: Tensor, noisy: Tensor, generator: torch.Generator) -> Tensor:
    """Replace one target of each pixel, drawn at random, by the noisy pixel ("recharging"; APR-RD, AAAI 2025).

    The L1 sum then moves towards the noisy value only where the targets disagree around it.

    Args:
        targets: (N, K, C, H, W).
        noisy: (N, C, H, W), in the same units.
        generator: of the draws, on the CPU.
    """
    n, count, _, h, w = targets.shape
    drawn = torch.randint(count, (n, 1, 1, h, w), generator=generator).to(targets.device)
    number = torch.arange(count, device=targets.device).view(1, count, 1, 1, 1)
    return torch.where(number == drawn, noisy[:, None], targets)
