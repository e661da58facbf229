"""DBSNl: the blind-spot network of AP-BSN (Lee et al., CVPR 2022, arXiv 2203.11799), which SDAP uses too.

Written from its description (layers, widths, names of the weights). Licence: Apache-2.0.
Differs from the released code: the masked taps are multiplied by zero on use and the stored weights do not change, so
that the network can be exported; the masks are no part of the state dict.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.archs.unet_util import float32_head


class CentreMaskedConv(nn.Conv2d):
    """A convolution with zero padding whose centre tap is zero: a pixel does not contribute to its own output."""

    mask: Tensor

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2)
        mask = torch.ones(1, 1, kernel_size, kernel_size)
        mask[..., kernel_size // 2, kernel_size // 2] = 0
        self.register_buffer('mask', mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class _DilatedResidual(nn.Module):
    """x + Conv1x1(ReLU(Conv3x3(x))), dilated, so that the taps stay on the lattice that excludes the pixel."""

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _Branch(nn.Module):
    """A masked convolution of side 2s - 1, then convolutions dilated by s, whose taps never reach the pixel itself."""

    def __init__(self, dim: int, dilation: int, num_module: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [CentreMaskedConv(dim, 2 * dilation - 1), nn.ReLU(inplace=True)]
        for _ in range(2):
            layers += [nn.Conv2d(dim, dim, 1), nn.ReLU(inplace=True)]
        layers += [_DilatedResidual(dim, dilation) for _ in range(num_module)]
        self.body = nn.Sequential(*layers, nn.Conv2d(dim, dim, 1), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


@ARCH_REGISTRY.register()
class DBSNl(nn.Module):
    """Predicts each pixel from its surroundings without that pixel: two branches of dilated convolutions.

    Correlated noise is predictable from the neighbours, so it passes. The network is for images whose noise is white,
    or was made so by sub-sampling (:mod:`basicsr_sassid.ops.subsampling`).

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the prediction.
        dim: width.
        num_module: dilated blocks in each branch.

    Shape:
        (N, num_in_ch, H, W) -> (N, num_out_ch, H, W), any H and W. Values in the range of the training: AP-BSN's
        weights in [0, 255], SDAP's in [0, 1].
    """

    multiple_of = 1
    global_context = False
    half_precision = True

    def __init__(self, num_in_ch: int = 3, num_out_ch: int = 3, dim: int = 128, num_module: int = 9) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(num_in_ch, dim, 1), nn.ReLU(inplace=True))
        self.branch1 = _Branch(dim, 2, num_module)
        self.branch2 = _Branch(dim, 3, num_module)
        self.tail = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, dim // 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim // 2, dim // 2, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim // 2, num_out_ch, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        x = self.tail[:-1](torch.cat((self.branch1(x), self.branch2(x)), dim=1))
        return float32_head(self.tail[-1], x)  # pyright: ignore[reportArgumentType]
