"""L1 to several targets at once, weighted per pixel (AT-BSN, Chen et al., CVPR 2024, arXiv 2303.16783, section 3.4).

Written from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn


@LOSS_REGISTRY.register()
class WeightedTargetsL1Loss(nn.Module):
    r"""Mean of the L1 distances to K targets.

    .. math:: \frac{1}{K} \sum_k \mathrm{mean}\,(w_k \cdot |pred - target_k|)

    Its minimum is a weighted median of the targets, not their mean. AT-BSN's students have w = 1 for every target and
    pixel, and the sum over k: ``loss_weight: K``.

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
        return self.loss_weight * error.mean()


def recharge(targets: Tensor, noisy: Tensor, generator: torch.Generator, count: int | None = None) -> Tensor:
    """Replace one target of each pixel, drawn at random, by the noisy pixel ("recharging"; APR-RD, AAAI 2025).

    The L1 sum then moves towards the noisy value only where the targets disagree around it.

    Args:
        targets: (N, K, C, H, W).
        noisy: (N, C, H, W), in the same units.
        generator: of the draws, on the CPU.
        count: of all targets, where ``targets`` holds a part of them; default: K.
    """
    n, given, _, h, w = targets.shape
    drawn = torch.randint(count or given, (n, 1, 1, h, w), generator=generator).to(targets.device)
    number = torch.arange(given, device=targets.device).view(1, given, 1, 1, 1)
    return torch.where(number == drawn, noisy[:, None], targets)
