"""BNN: the blind-neighbourhood network of SASSID (Li et al., CVPR 2023, arXiv 2303.14934; supplement B, eq. 1-2).

Written from the paper; backbone of Laine et al. (NeurIPS 2019). Licence: Apache-2.0.
Differs from the released code: ``blind_size`` must be odd (there an even one silently gives the next odd one),
any height and width (there: equal sides that are multiples of 32); ``forward`` changes no attribute.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.archs.unet_util import NUM_LEVELS, UNetTrunk, float32_head, init_unet, shift_down
from basicsr_sassid.ops.padding import pad_to_multiple


@ARCH_REGISTRY.register()
class BNN(nn.Module):
    """Predicts each pixel from the image without the ``blind_size`` x ``blind_size`` neighbourhood of that pixel.

    One half-plane U-Net is applied to the image in four rotations. Its features are shifted away from the pixel by
    ``(blind_size + 1) / 2`` rows, rotated back and fused by 1x1 convolutions.

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the prediction.
        dim: width of the U-Net's encoder.
        blind_size: side of the blind neighbourhood in pixels, odd, >= 1. It must cover the correlation of the noise.

    Shape:
        (N, num_in_ch, H, W) -> (N, num_out_ch, H, W), any H and W >= 1, values in grey levels [0, 255].

    Raises:
        ValueError: ``blind_size`` is even or below 1.
    """

    multiple_of = 2**NUM_LEVELS
    global_context = False
    half_precision = True

    def __init__(self, num_in_ch: int = 3, num_out_ch: int = 3, dim: int = 48, blind_size: int = 9) -> None:
        super().__init__()
        if not isinstance(blind_size, int) or blind_size < 1 or blind_size % 2 == 0:
            raise ValueError(
                f'blind_size: expected an odd number >= 1 (side of the blind neighbourhood), got {blind_size!r}'
            )
        self.blind_size = blind_size
        self.trunk = UNetTrunk(num_in_ch, dim, half_plane=True)
        self.fuse = nn.Sequential(
            nn.Conv2d(8 * dim, 8 * dim, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(8 * dim, 2 * dim, 1),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.head = nn.Conv2d(2 * dim, num_out_ch, 1)
        init_unet(self, last=self.head)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        shift = (self.blind_size + 1) // 2
        # zeros, not a reflection: a mirrored copy of the blind neighbourhood would leak into the prediction
        x = pad_to_multiple(x, self.multiple_of, 'zeros')
        # upright and rotated views in two batches: the image need not be square
        up, down = self.trunk(torch.cat((x, torch.rot90(x, 2, (2, 3))))).chunk(2)
        left, right = self.trunk(torch.cat((torch.rot90(x, 1, (2, 3)), torch.rot90(x, 3, (2, 3))))).chunk(2)
        features = torch.cat(
            [
                torch.rot90(shift_down(view, shift), -turns, (2, 3))
                for turns, view in enumerate((up, left, down, right))
            ],
            dim=1,
        )
        return float32_head(self.head, self.fuse(features))[..., :h, :w]
