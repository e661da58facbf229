"""BNN: the blind-neighbourhood network of SASSID (Li et al., CVPR 2023, arXiv 2303.14934; supplement B, eq. 1-2).

Written from the paper; backbone of Laine et al. (NeurIPS 2019). Licence: Apache-2.0.
Differs from the released code: ``blind_size`` must be odd (there an even one silently gives the next odd one),
any height and width (there: equal sides that are multiples of 32); ``forward`` changes no attribute.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_sassid.archs.unet_util import NUM_LEVELS, UNetTrunk, float32_head, init_unet
from basicsr_sassid.ops.padding import pad_to_multiple
from basicsr_sassid.utils.blind_size import BlindSize, blind_sides


@ARCH_REGISTRY.register()
class BNN(nn.Module):
    """Predicts each pixel from the image without the ``blind_size`` x ``blind_size`` neighbourhood of that pixel.

    One half-plane U-Net is applied to the image in four rotations. Its features are shifted away from the pixel by
    ``(blind_size + 1) / 2`` rows, rotated back and fused by 1x1 convolutions.

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the prediction.
        dim: width of the U-Net's encoder.
        blind_size: side of the blind neighbourhood in training, in pixels, odd, >= 1. It must cover the correlation of
            the noise. The same weights predict with any other size (AT-BSN, CVPR 2024), see :meth:`predict`.

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

    def forward(self, x: Tensor, blind_size: BlindSize | None = None) -> Tensor:
        """Predict with ``blind_size`` in place of the network's own, see :meth:`predict`."""
        return self.predict(self.features(x), x.shape[-2:], blind_size)

    def features(self, x: Tensor) -> list[Tensor]:
        """The trunk's features of an image, (N, num_in_ch, H, W), before any shift: the part of a prediction that does
        not depend on the blind neighbourhood, and costs the most.

        Returns:
            Features of what is above, right of, below and left of each pixel, its own row or column included. Each is
            (N, 2 * dim, H', W') in the image's orientation; H' and W' are the next multiples of 32.
        """
        # zeros, not a reflection: a mirrored copy of the blind neighbourhood would leak into the prediction
        x = pad_to_multiple(x, self.multiple_of, 'zeros')
        # upright and rotated views in two batches: the image need not be square
        upright = self.trunk(torch.cat((x, torch.rot90(x, 2, (2, 3)))))
        rotated = self.trunk(torch.cat((torch.rot90(x, 1, (2, 3)), torch.rot90(x, 3, (2, 3)))))
        (above, below), (right, left) = upright.chunk(2), rotated.chunk(2)
        views = [torch.rot90(view, -turns, (2, 3)) for turns, view in enumerate((above, right, below, left))]
        if upright.is_contiguous(memory_format=torch.channels_last):
            # else the 1x1 convolutions take three times as long
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        return views

    def predict(self, features: Sequence[Tensor], size: Sequence[int], blind_size: BlindSize | None = None) -> Tensor:
        """Prediction from features: one shift of each view and the 1x1 convolutions.

        Args:
            features: of :meth:`features`.
            size: height and width of the image.
            blind_size: height and width of the blind neighbourhood in pixels, both odd, or one odd number for both; 0:
                nothing is hidden, the pixel itself included. By default the network's own.

        Returns:
            (N, num_out_ch, H, W).

        Raises:
            ValueError: another ``blind_size``.
        """
        height, width = (self.blind_size, self.blind_size) if blind_size is None else blind_sides(blind_size)
        rows, columns = (height + 1) // 2, (width + 1) // 2
        above, right, below, left = features
        shifted = (  # away from the side that they come from; zeros enter there
            F.pad(above, (0, 0, rows, 0))[..., : above.shape[2], :],  # a shift may exceed the size
            F.pad(right, (0, columns))[..., columns:],
            F.pad(below, (0, 0, 0, rows))[..., rows:, :],
            F.pad(left, (columns, 0))[..., : left.shape[3]],
        )
        return float32_head(self.head, self.fuse(torch.cat(shifted, dim=1)))[..., : size[0], : size[1]]

    def predict_all(self, x: Tensor, blind_sizes: Sequence[BlindSize]) -> Tensor:
        """Predictions of an image with K blind sizes, one after another: (N, K * num_out_ch, H, W). The trunk runs
        once."""
        features = self.features(x)
        return torch.cat([self.predict(features, x.shape[-2:], size) for size in blind_sizes], dim=1)
