"""LAN: the locally aware network of SASSID (Li et al., CVPR 2023, arXiv 2303.14934; supplement B, fig. B).

Written from the paper; channel attention of RCAN (Zhang et al., ECCV 2018). Licence: Apache-2.0.
Differs from the released code: ``receptive_size`` must be odd; ``channel_attention`` can be left out.
"""

from __future__ import annotations

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.archs.unet_util import float32_head


class _ResidualBlock(nn.Module):
    """x + gate(x) * f(x), all 1x1."""

    def __init__(self, dim: int, reduction: int, channel_attention: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.ReLU(inplace=True), nn.Conv2d(dim, dim, 1))
        squeezed = max(dim // reduction, 1)
        self.gate = (
            nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(dim, squeezed, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(squeezed, dim, 1),
                nn.Sigmoid(),
            )
            if channel_attention
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + (y if self.gate is None else y * self.gate(y))


@ARCH_REGISTRY.register()
class LAN(nn.Module):
    """Predicts each pixel from its ``receptive_size`` x ``receptive_size`` neighbourhood.

    The channel attention averages over the whole input, so the output for a crop is not the crop of the output. Apply
    the network to windows of the size that it was trained on.

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the prediction.
        dim: width.
        receptive_size: side of the receptive field in pixels, odd, >= 1.
        num_block: residual blocks.
        reduction: squeeze of the channel attention (dim / reduction features).
        channel_attention: False leaves it out, and the network is strictly local.

    Shape:
        (N, num_in_ch, H, W) -> (N, num_out_ch, H, W), any H and W >= 1, values in grey levels [0, 255].

    Raises:
        ValueError: ``receptive_size`` is even or below 1.
    """

    multiple_of = 1
    half_precision = True

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        dim: int = 64,
        receptive_size: int = 3,
        num_block: int = 6,
        reduction: int = 16,
        channel_attention: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(receptive_size, int) or receptive_size < 1 or receptive_size % 2 == 0:
            raise ValueError(
                f'receptive_size: expected an odd number >= 1 (side of the receptive field), got {receptive_size!r}'
            )
        self.global_context = channel_attention
        stem: list[nn.Module] = [nn.Conv2d(num_in_ch, dim, 1), nn.ReLU(inplace=True)]
        for _ in range(receptive_size // 2):
            stem += [nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*stem)
        self.blocks = nn.Sequential(*[_ResidualBlock(dim, reduction, channel_attention) for _ in range(num_block)])
        self.tail = nn.Conv2d(dim, dim, 1)
        self.head = nn.Conv2d(dim, num_out_ch, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return float32_head(self.head, x + self.tail(self.blocks(x)))
