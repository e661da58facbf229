"""FFDNet: a denoiser whose input holds the noise level (Zhang et al., IEEE TIP 2018, arXiv 1710.04026).

Written from the paper. Licence: Apache-2.0.
Differs from the paper: no batch normalisation, which the authors merge into the convolutions after training. This is
the configuration of D2SM (Mei et al., ECCV 2022), 852,108 parameters for colour images.
"""

from __future__ import annotations

from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr_sassid.archs.unet_util import float32_head
from basicsr_sassid.ops.padding import forward_padded

_STEP = 2  # of the sub-images


@ARCH_REGISTRY.register()
class FFDNet(nn.Module):
    """Denoises four sub-images of half the size at once, with a map of the noise level beside them.

    Args:
        num_in_ch: channels of the noisy image; the prediction has as many.
        num_feat: width; 96 for colour, 64 for grey images in the paper.
        num_conv: convolutions, >= 2; 12 for colour, 15 for grey images in the paper.
        sigma: noise level, above 0, up to 255 in 8-bit grey levels, of images without a map; None: every input has one.

    Shape:
        (N, num_in_ch + 1, H, W) -> (N, num_in_ch, H, W), any H and W >= 1, values in [0, 1]. The last channel of the
        input is the noise-level map: the standard deviation of the noise at each pixel, sigma / 255. With ``sigma``,
        also (N, num_in_ch, H, W).

    Raises:
        ValueError: an argument is out of its range, or an input has another number of channels.
    """

    multiple_of = _STEP
    global_context = False
    half_precision = True

    def __init__(self, num_in_ch: int = 3, num_feat: int = 96, num_conv: int = 12, sigma: float | None = None) -> None:
        super().__init__()
        for name, value, least in (('num_in_ch', num_in_ch, 1), ('num_feat', num_feat, 1), ('num_conv', num_conv, 2)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f'{name}: expected a whole number >= {least}, got {value!r}')
        is_number = isinstance(sigma, int | float) and not isinstance(sigma, bool)
        if sigma is not None and not (is_number and 0 < sigma <= 255):
            raise ValueError(f'sigma: expected a number above 0, up to 255 (8-bit grey levels), got {sigma!r}')
        self.num_in_ch, self.num_feat, self.sigma = num_in_ch, num_feat, sigma
        sub_channels = num_in_ch * _STEP**2
        layers: list[nn.Module] = [nn.Conv2d(sub_channels + 1, num_feat, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(num_conv - 2):
            layers += [nn.Conv2d(num_feat, num_feat, 3, padding=1), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(num_feat, sub_channels, 3, padding=1))
        self.body = nn.Sequential(*layers)
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):  # orthogonal filters, as in the paper
                nn.init.orthogonal_(layer.weight)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == self.num_in_ch and self.sigma is not None:
            x = torch.cat([x, x.new_full((x.shape[0], 1, *x.shape[2:]), self.sigma / 255)], dim=1)
        if x.shape[1] != self.num_in_ch + 1:
            raise ValueError(
                f'FFDNet: expected {self.num_in_ch + 1} channels, the last one the noise-level map, got {x.shape[1]}. '
                'Set noise_map: true in the dataset, or give the network the option sigma.'
            )
        return forward_padded(self._denoise, x, _STEP)

    def _denoise(self, x: Tensor) -> Tensor:
        image, level = x[:, : self.num_in_ch], x[:, self.num_in_ch :]
        # one level for each 2x2 block: the mean of its four
        sub_images = torch.cat([F.pixel_unshuffle(image, _STEP), F.avg_pool2d(level, _STEP)], dim=1)
        layers: Any = self.body
        return F.pixel_shuffle(float32_head(layers[-1], layers[:-1](sub_images)), _STEP)
