"""The U-Net trunk that BNN and DenoisingUNet share.

Topology: Laine et al., High-Quality Self-Supervised Deep Image Denoising (NeurIPS 2019), as SASSID uses it
(Li et al., CVPR 2023, supplement B). Written from the papers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_LEVELS = 5  # poolings; a side must be a multiple of 2 ** NUM_LEVELS


class HalfPlaneConv2d(nn.Conv2d):
    """3x3 convolution whose receptive field is its own row and the two above it.

    Equals: pad two more rows on top, convolve, drop the last two rows. The asymmetric pad computes no row that is
    dropped.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=(0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 0, 2, 0)))


def shift_down(x: Tensor, rows: int) -> Tensor:
    """Move every row down by ``rows``; zeros enter at the top."""
    return F.pad(x, (0, 0, rows, -rows))


class UNetTrunk(nn.Module):
    """(N, in_ch, H, W) -> (N, 2 * dim, H, W), H and W multiples of 32.

    Args:
        in_ch: channels of the image.
        dim: features of the encoder; the decoder has twice as many.
        half_plane: True: the output at a row depends on that row and those above it (BNN). False: a plain U-Net.
    """

    def __init__(self, in_ch: int, dim: int, half_plane: bool) -> None:
        super().__init__()
        self.half_plane = half_plane

        def convs(*widths: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width_in, width_out in zip(widths, widths[1:]):
                conv = (
                    HalfPlaneConv2d(width_in, width_out) if half_plane else nn.Conv2d(width_in, width_out, 3, padding=1)
                )
                layers += [conv, nn.LeakyReLU(0.1, inplace=True)]
            return nn.Sequential(*layers)

        self.encode = nn.ModuleList([convs(in_ch, dim, dim)] + [convs(dim, dim) for _ in range(NUM_LEVELS)])
        self.decode = nn.ModuleList(
            [convs(2 * dim, 2 * dim, 2 * dim)]
            + [convs(3 * dim, 2 * dim, 2 * dim) for _ in range(NUM_LEVELS - 2)]
            + [convs(2 * dim + in_ch, 2 * dim, 2 * dim)]
        )

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for encode in self.encode[:-1]:
            skips.append(x)  # the image itself, then the pooled features
            x = encode(x)
            # a pooled cell must not depend on rows below its upper one: Laine et al., section 3.1
            x = F.max_pool2d(shift_down(x, 1) if self.half_plane else x, 2)
        x = self.encode[-1](x)
        for decode in self.decode:
            x = F.interpolate(x, scale_factor=2, mode='nearest')
            x = decode(torch.cat((x, skips.pop()), dim=1))
        return x


def init_unet(net: nn.Module, last: nn.Conv2d) -> None:
    """Kaiming-normal for LeakyReLU(0.1), zero bias; gain 1 for the ``last`` convolution, which has no activation."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1 if module is not last else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def float32_head(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The last convolution, never in half precision: bfloat16 has steps of one grey level above 128."""
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.to(conv.weight.dtype))
