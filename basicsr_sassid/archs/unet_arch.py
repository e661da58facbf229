"""DenoisingUNet: the student of SASSID (Li et al., CVPR 2023, arXiv 2303.14934), used for inference.

Written from the paper; topology of Laine et al. (NeurIPS 2019). Licence: Apache-2.0.
Differs from the released code: any height and width (there: multiples of 32), ``img_range``, ``residual``.
"""

from __future__ import annotations

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.archs.unet_util import NUM_LEVELS, UNetTrunk, float32_head, init_unet
from basicsr_sassid.ops.padding import pad_to_multiple


@ARCH_REGISTRY.register()
class DenoisingUNet(nn.Module):
    """Predicts the clean image from the noisy one; with ``residual``, what is to be added to the noisy one.

    Args:
        num_in_ch: channels of the noisy image.
        num_out_ch: channels of the clean image.
        dim: width of the encoder; the decoder is twice as wide.
        img_range: what the input is multiplied with and the output divided by, as in BasicSR's EDSR. 1 (default):
            input and output are in grey levels [0, 255], as ThreeStageModel and Denoiser feed it. 255: input and
            output are in [0, 1], as BasicSR's own SRModel feeds it.
        residual: the output is the input plus the prediction, whose last layer starts at zero: the untrained network
            returns its input. The paper has none. A buffer ``residual`` in the state dict states it, since the weights
            have the same names and shapes with and without.

    Shape:
        (N, num_in_ch, H, W) -> (N, num_out_ch, H, W), any H and W >= 1.

    Raises:
        ValueError: ``residual`` is neither true nor false, or true with other channels out than in.
    """

    multiple_of = 2**NUM_LEVELS
    global_context = False
    half_precision = True

    def __init__(
        self, num_in_ch: int = 3, num_out_ch: int = 3, dim: int = 48, img_range: float = 1.0, residual: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(residual, bool):
            raise ValueError(f'residual: expected true or false, got {residual!r}')
        self.img_range = img_range
        self.trunk = UNetTrunk(num_in_ch, dim, half_plane=False)
        self.head = nn.Conv2d(2 * dim, num_out_ch, 1)
        init_unet(self, last=self.head)
        self.is_residual = residual
        if residual:
            if num_in_ch != num_out_ch:
                raise ValueError(f'residual: expected as many channels in as out, got {num_in_ch} and {num_out_ch}')
            nn.init.zeros_(self.head.weight)
            self.register_buffer('residual', torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        x = pad_to_multiple(x * self.img_range, self.multiple_of, 'reflect')
        prediction = float32_head(self.head, self.trunk(x))
        if self.is_residual:
            prediction = x + prediction
        return prediction[..., :h, :w] / self.img_range
