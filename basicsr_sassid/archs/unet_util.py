"""The U-Net trunk that BNN and DenoisingUNet share, and sizes that are no multiple of its stride.

Topology: Laine et al., High-Quality Self-Supervised Deep Image Denoising (NeurIPS 2019), as SASSID uses it
(Li et al., CVPR 2023, supplement B). Written from the papers.
"""
from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NUM_LEVELS = 5  # poolings; a side must be a multiple of 2 ** NUM_LEVELS


def pad_to_multiple(x: Tensor, multiple: int, mode: str) -> Tensor:
    """Pad the bottom and the right so that both sides are multiples. Undo it with ``y[..., :h, :w]``.

    Args:
        x: (N, C, H, W), any H, W >= 1.
        multiple: what both sides shall be a multiple of.
        mode: ``'reflect'`` mirrors the image without its edge, as often as needed (any size, even one smaller
            than the padding); ``'zeros'`` adds zeros.
    """
    h, w = x.shape[-2:]
    pad_h, pad_w = -h % multiple, -w % multiple
    if torch.compiler.is_exporting() and mode == 'reflect':  # the sizes are symbols: no branch on them
        return x[..., _mirrored(h, h + pad_h, x.device)[:, None], _mirrored(w, w + pad_w, x.device)]
    if not (pad_h or pad_w):
        return x
    if mode == 'zeros':
        return F.pad(x, (0, pad_w, 0, pad_h))
    if mode != 'reflect':
        raise ValueError(f"mode: expected 'reflect' or 'zeros', got {mode!r}")
    if pad_h < h and pad_w < w:
        return F.pad(x, (0, pad_w, 0, pad_h), mode='reflect')
    return x[..., _mirrored(h, h + pad_h, x.device)[:, None], _mirrored(w, w + pad_w, x.device)]


def _mirrored(size: int, padded: int, device: torch.device) -> Tensor:
    """0 1 2 1 0 1 2 ...: the indices of a line of ``size`` pixels mirrored out to ``padded``."""
    period = torch.full((1,), torch.sym_max(2 * (size - 1), 1), device=device)  # a tensor: ONNX has no other modulo
    position = torch.arange(padded, device=device) % period
    return torch.minimum(position, 2 * (size - 1) - position).clamp(min=0)


class HalfPlaneConv2d(nn.Conv2d):
    """3x3 convolution that sees its own row and the two above it, never one below.

    Equals: pad two more rows on top, convolve, drop the last two rows. One asymmetric pad does not compute
    what is dropped.
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
        half_plane: True: the output at a row sees that row and those above it only (BNN). False: a plain U-Net.
    """

    def __init__(self, in_ch: int, dim: int, half_plane: bool) -> None:
        super().__init__()
        self.half_plane = half_plane

        def convs(*widths: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for width_in, width_out in zip(widths, widths[1:]):
                conv = HalfPlaneConv2d(width_in, width_out) if half_plane else nn.Conv2d(width_in, width_out, 3,
                                                                                         padding=1)
                layers += [conv, nn.LeakyReLU(0.1, inplace=True)]
            return nn.Sequential(*layers)

        self.encode = nn.ModuleList([convs(in_ch, dim, dim)] + [convs(dim, dim) for _ in range(NUM_LEVELS)])
        self.decode = nn.ModuleList([convs(2 * dim, 2 * dim, 2 * dim)]
                                    + [convs(3 * dim, 2 * dim, 2 * dim) for _ in range(NUM_LEVELS - 2)]
                                    + [convs(2 * dim + in_ch, 2 * dim, 2 * dim)])

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for encode in self.encode[:-1]:
            skips.append(x)  # the image itself, then the pooled features
            x = encode(x)
            # a pooled cell must not see rows below its upper one: Laine et al., section 3.1
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
            nn.init.zeros_(module.bias)


def float32_head(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The last convolution, never in half precision: bfloat16 has steps of one grey level above 128."""
    with torch.autocast(x.device.type, enabled=False):
        return conv(x.to(conv.weight.dtype))
