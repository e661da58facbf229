"""The spatially adaptive supervision of SASSID (Li et al., CVPR 2023, arXiv 2303.14934; eq. 3-5, supplement D).

Written from the paper. Licence: Apache-2.0.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

REGIONS = ('flat', 'texture', 'all')


def local_std(x: Tensor, window: int = 7) -> Tensor:
    """Population standard deviation of the channels' mean in a ``window`` x ``window`` box around each pixel.

    Computed in float64, where E[x^2] - E[x]^2 is exact to 1e-5 grey levels; in float32 its error reaches 0.16.

    Args:
        x: (N, C, H, W), H and W > window // 2; the border is mirrored without its edge.
        window: side of the box in pixels, odd.

    Returns:
        (N, 1, H, W), in the units and the dtype of x.
    """
    radius = window // 2
    _check_window(window)
    if min(x.shape[-2:]) <= radius:
        raise ValueError(
            f'window {window}: expected an image of more than {radius} pixels a side, got '
            f'{tuple(x.shape[-2:])}; choose a smaller window'
        )
    grey = F.pad(x.double().mean(dim=1, keepdim=True), (radius,) * 4, mode='reflect')

    def box(y: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(y, (window, 1), stride=1), (1, window), stride=1)

    return (box(grey * grey) - box(grey).square()).clamp(min=0).sqrt().to(x.dtype)


def _check_window(window: int) -> None:
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise ValueError(f'window: expected an odd number >= 1, got {window!r}')


def texture_map(x: Tensor, window: int = 7, lower: float = 1.0, upper: float = 5.0, img_range: float = 255.0) -> Tensor:
    """The adaptive coefficient alpha (eq. 3): 0.27 where x is flat, 0.5 in between, towards 1 where it is textured.

    Compute it on the BNN's prediction, never on the noisy image, whose noise would count as texture.

    Args:
        x: (N, C, H, W) in [0, img_range].
        window: see :func:`local_std`.
        lower, upper: thresholds of the local standard deviation, in 8-bit grey levels.
        img_range: value of white in x; 255 for grey levels, 1 for BasicSR's [0, 1].

    Returns:
        (N, 1, H, W) in [sigmoid(-lower), 1], without gradient.
    """
    std = local_std(x.detach(), window) * (255.0 / img_range)
    return torch.sigmoid((std - lower).clamp(max=0) + (std - upper).clamp(min=0))


class _TextureWeightedLoss(nn.Module):
    """Base of the selective losses: the parameters of alpha.

    Raises:
        ValueError: ``window`` is even, ``lower`` exceeds ``upper``, or ``img_range`` is not above 0.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        window: int = 7,
        lower: float = 1.0,
        upper: float = 5.0,
        img_range: float = 255.0,
    ) -> None:
        super().__init__()
        _check_window(window)
        if not 0 <= lower <= upper:
            raise ValueError(f'lower and upper: expected 0 <= lower <= upper, got {lower} and {upper}')
        if not img_range > 0:
            raise ValueError(f'img_range: expected a number > 0, got {img_range}')
        self.loss_weight = loss_weight
        self.texture = {'window': window, 'lower': lower, 'upper': upper, 'img_range': img_range}


@LOSS_REGISTRY.register()
class SelectiveL1Loss(_TextureWeightedLoss):
    r"""L1 to a target, weighted by where the target is reliable.

    .. math:: \mathrm{mean}\,(w \cdot |pred - target|), \quad
        w = 1 - \alpha \text{ (flat)},\ \alpha \text{ (texture)},\ 1 \text{ (all)}

    with alpha from the target. The mean is over all elements: it is not divided by the sum of w.

    SASSID trains its LAN with it; the target is the BNN's prediction. The paper (eq. 4) has ``region: flat``; the
    released code, from which the published figures come as far as is known, has ``region: all``, our default. The
    author: "Either will be ok".

    Args:
        region: ``'flat'``, ``'texture'`` or ``'all'``.
        loss_weight: factor of the loss.
        window, lower, upper, img_range: see :func:`texture_map`. From a stock BasicSR model, whose images are in
            [0, 1], give ``img_range: 1``; with 255 everything would count as flat.
    """

    def __init__(
        self,
        region: str = 'all',
        loss_weight: float = 1.0,
        window: int = 7,
        lower: float = 1.0,
        upper: float = 5.0,
        img_range: float = 255.0,
    ) -> None:
        super().__init__(loss_weight, window, lower, upper, img_range)
        if region not in REGIONS:
            raise ValueError(f'region: expected one of {", ".join(REGIONS)}, got {region!r}')
        self.region = region

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """pred, target: (N, C, H, W) in [0, img_range]. Returns a scalar."""
        error = (pred - target).abs()
        if self.region != 'all':
            alpha = texture_map(target, **self.texture)
            error = error * (alpha if self.region == 'texture' else 1 - alpha)
        return self.loss_weight * error.mean()


@LOSS_REGISTRY.register()
class TwoTeacherL1Loss(_TextureWeightedLoss):
    r"""L1 to one teacher where the image is flat and to another where it is textured (eq. 5).

    .. math:: \mathrm{mean}\,((1 - \alpha) |pred - flat|) + \mathrm{mean}\,(\alpha |pred - textured|)

    with alpha from ``flat``, the BNN's prediction. Paper and released code agree on it.

    Args:
        loss_weight: factor of the loss.
        window, lower, upper, img_range: see :func:`texture_map`.
    """

    def forward(self, pred: Tensor, flat: Tensor, textured: Tensor) -> Tensor:
        """pred, flat, textured: (N, C, H, W) in [0, img_range]. Returns a scalar."""
        alpha = texture_map(flat, **self.texture)
        return self.loss_weight * ((1 - alpha) * (pred - flat).abs() + alpha * (pred - textured).abs()).mean()
