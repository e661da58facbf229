"""Feat-D: a discriminator on semantic features, for SFD (Dong et al., CVPR 2025, arXiv 2503.19295).

A reconstruction: the abstract names a discriminator on pixel-wise middle features of CLIP; the paper's body could not
be read. Written by us over BasicSR's U-Net discriminator. Licence: Apache-2.0.
"""

from __future__ import annotations

from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from basicsr_sassid.ops.padding import forward_padded
from basicsr_sassid.utils.option_checks import check_number

_UNET_STEP = 8  # of the U-Net's three poolings


@ARCH_REGISTRY.register()
class FeatureDiscriminator(nn.Module):
    """Predicts at each pixel of a feature map whether it is of a photograph (logits above 0) or of a restored image.

    Args:
        num_in_ch: channels of the feature map.
        num_feat: width.
        variant: ``unet``: BasicSR's UNetDiscriminatorSN; ``patch``: three 3x3 convolutions with spectral norm, which
            see 7x7 pixels; ``pixel``: 1x1 convolutions with spectral norm, which see each pixel by itself.

    Shape:
        (N, num_in_ch, H, W) -> (N, 1, H, W), any H and W >= 1.

    Raises:
        ValueError: an unknown variant, or a number below 1.
    """

    global_context = False

    def __init__(self, num_in_ch: int, num_feat: int = 64, variant: str = 'unet') -> None:
        super().__init__()
        for name, value in (('num_in_ch', num_in_ch), ('num_feat', num_feat)):
            check_number(value, 1, name)
        if variant == 'unet':
            self.multiple_of, self.body = _UNET_STEP, UNetDiscriminatorSN(num_in_ch, num_feat)
        elif variant in ('patch', 'pixel'):
            side = 3 if variant == 'patch' else 1
            layers: list[nn.Module] = []
            for channels in (num_in_ch, num_feat):
                layers += [spectral_norm(nn.Conv2d(channels, num_feat, side, padding=side // 2)), nn.LeakyReLU(0.2)]
            layers.append(nn.Conv2d(num_feat, 1, side, padding=side // 2))
            self.multiple_of, self.body = 1, nn.Sequential(*layers)
        else:
            raise ValueError(f'variant: expected one of unet, patch, pixel, got {variant!r}')

    def forward(self, x: Tensor) -> Tensor:
        return forward_padded(self.body, x, self.multiple_of)
