"""Denoiser: weights in, a function from noisy to clean images out."""
from __future__ import annotations

import math
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from basicsr_sassid._checks import UserError, check_choice
from basicsr_sassid._device import PRECISIONS, choose_device, choose_dtype
from basicsr_sassid.archs.official_util import network_of
from basicsr_sassid.archs.subsample_util import denoise_in_passes
from basicsr_sassid.archs.symmetry_util import over_symmetries
from basicsr_sassid.inference.tiling import tiles
from basicsr_sassid.weights import build_network, check_passes, load_state, read_weights, state_dict_of


class Denoiser:
    """Denoise images of any size with a trained network, in bounded memory.

    Args:
        weights: a ``net_g_*.pth`` of a training, or a checkpoint of the authors of SASSID, AP-BSN, SDAP or AMSNet (with
            ``network``, unless it is a DBSNl): network, range and passes are told by the content.
        device: ``'auto'`` (a GPU if there is one), or torch's name of a device.
        tile: side of a tile in pixels, a multiple of 32; 0: the image in one piece.
        overlap: how far a tile sees beyond its part, a multiple of 32; from 128 on, tiled and whole are the same
            to rounding, but for methods that draw masks: a tile has its own draws.
        self_ensemble: mean over the eight flips and turns: slightly better, eight times slower.
        precision: of the network's inner layers: ``'fp32'``, ``'bf16'``, ``'fp16'``, or ``'auto'``: bf16 where the
            hardware has it, and the network is ours: its last layer stays in float32. So does arithmetic on pixels.
        key: ``'params'`` or ``'params_ema'``; by default the average where the file has one.
        network: option block of any network of BasicSR's registry, ``{type: NAME, ...}``; by default as the file says.
        img_range: value of white for the network; by default as the file says, and 1 with ``network``.
        passes: how the network is used, the arguments of :func:`denoise_in_passes`; by default as the file says. AP-BSN
            without R3: ``{'stride': 2}``; one plain pass: ``{}``. ``multiple_of`` is kept, being the network's.

    Raises:
        UserError: the file is no weights file, or not of a network known here; the device is not there.

    Example:
        >>> denoise = Denoiser(weights, self_ensemble=True)     # net_g_latest.pth, student.safetensors ...
        >>> denoise(np.zeros((40, 50, 3), np.uint8)).shape
        (40, 50, 3)
    """

    def __init__(self, weights: str | os.PathLike, device: str = 'auto', tile: int = 512, overlap: int = 128,
                 self_ensemble: bool = False, precision: str = 'auto', key: str | None = None,
                 network: dict | None = None, img_range: float | None = None, passes: dict | None = None) -> None:
        content = read_weights(weights)
        state = state_dict_of(content, weights, key)
        block = network or content.get('network') or network_of(state)
        if block is None:
            raise UserError(f'{weights}: not of a network known here (BNN, LAN, DenoisingUNet, DBSNl). Say which: '
                            'network={...}')
        self.net = build_network(block, str(weights))
        load_state(self.net, state, weights)
        self.img_range = img_range or content.get('img_range', 1 if network else 255)
        used = content.get('inference') or {}
        own = {'multiple_of': used['multiple_of']} if 'multiple_of' in used else {}  # the network's, not the method's
        self.passes = used if passes is None else {**own, **passes}
        check_passes(self.passes, 'passes')
        self.device = choose_device(device)
        check_choice(precision, PRECISIONS, 'precision')
        is_ours = type(self.net).__module__.startswith('basicsr_sassid.')
        self.dtype = choose_dtype(precision if is_ours or precision != 'auto' else 'fp32', self.device)
        self.net.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        wanted = getattr(self.net, 'multiple_of', 1)
        if tile < 0 or tile % wanted or overlap < 0 or overlap % wanted:
            raise UserError(f'tile and overlap: expected multiples of {wanted}, got {tile} and {overlap}')
        # a network that averages over its whole input is another function on a tile
        whole = tile == 0 or any(isinstance(module, nn.AdaptiveAvgPool2d) for module in self.net.modules())
        # tiles start on the network's grid in every sub-image, and see as far there
        stride = self.passes.get('stride', 1)
        self.multiple_of = stride * math.lcm(wanted, self.passes.get('multiple_of', 1))
        self.tile, self.overlap = (-(-pixels // self.multiple_of) * self.multiple_of
                                   for pixels in (0 if whole else tile, overlap * stride))
        self.self_ensemble = self_ensemble

    def __call__(self, image: np.ndarray, progress: Callable[[float], None] | None = None) -> np.ndarray:
        """Denoise one image.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in [0, 1].
            progress: called with the share done, 0 to 1.

        Returns:
            The image denoised: same shape, dtype and range; integers rounded, all clipped to the range.

        Raises:
            UserError: another shape or dtype; values that are not finite; the network gave such.
        """
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise UserError(f'expected an image of shape (H, W), (H, W, 1) or (H, W, 3), got {image.shape}')
        white = _white(image.dtype)
        result = np.empty_like(pixels)
        height, width = pixels.shape[:2]
        largest = -(-max(height, width) // self.multiple_of) * self.multiple_of
        boxes = list(tiles(height, width, self.tile or largest, self.overlap, self.multiple_of))
        for number, (seen, inner, kept) in enumerate(boxes, 1):
            denoised = self._run(pixels[seen].astype(np.float32) * (self.img_range / white))[inner] / self.img_range
            if not np.isfinite(denoised).all():
                raise UserError('the result is not finite: are the weights damaged, or is the image?')
            denoised = denoised.clip(0, 1) * white
            result[kept] = denoised.round() if white > 1 else denoised
            if progress:
                progress(number / len(boxes))
        return result.reshape(image.shape)

    @torch.no_grad()
    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) float32 in [0, img_range] -> the same, denoised."""
        channels = pixels.shape[2]
        x = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].to(self.device)
        y = self._ensemble(x.expand(-1, 3, -1, -1)) if channels == 1 else self._ensemble(x)
        y = y.mean(dim=1, keepdim=True) if channels == 1 else y
        return y[0].float().permute(1, 2, 0).cpu().numpy()

    def _ensemble(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if self.self_ensemble:
                return over_symmetries(self._answer, x)
            return self._answer(x.contiguous(memory_format=torch.channels_last))

    def _answer(self, x: Tensor) -> Tensor:
        return denoise_in_passes(self.net, x, **self.passes) if self.passes else self.net(x)


def _white(dtype: np.dtype) -> float:
    if dtype in (np.uint8, np.uint16):
        return float(np.iinfo(dtype).max)
    if np.issubdtype(dtype, np.floating):
        return 1.
    raise UserError(f'expected uint8, uint16 or float in [0, 1], got {dtype}')
