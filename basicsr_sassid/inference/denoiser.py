"""A trained network as a function from noisy to denoised arrays."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basicsr_sassid.archs.capabilities import capabilities_of
from basicsr_sassid.archs.ffdnet_arch import FFDNet
from basicsr_sassid.inference.subsampled import InferenceConfig, check_blind_size, subsampled_inference
from basicsr_sassid.io.author_checkpoints import infer_network_options
from basicsr_sassid.io.checkpoint import build_card_network, build_network, load_state, read_weights, state_dict_of
from basicsr_sassid.io.weights_card import DELIVERED_ROLES, OWN_NETWORKS, TEACHERS
from basicsr_sassid.ops.arrays import as_hwc, checked_image, white_level
from basicsr_sassid.ops.dihedral import self_ensemble as mean_over_symmetries
from basicsr_sassid.ops.tiling import Box, process_tiles
from basicsr_sassid.utils.blind_size import BlindSize
from basicsr_sassid.utils.device import PRECISIONS, choose_device, choose_dtype
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_choice
from basicsr_sassid.utils.sequences import Progress


@dataclasses.dataclass(frozen=True)
class LoadedNetwork:
    """A network from a weights file, and how it is applied.

    Attributes:
        net: the network with its weights, on the CPU.
        img_range: value of white for the network.
        config: see :class:`InferenceConfig`.
        is_teacher: the network is a teacher of a training (``net_bnn_*``, ``net_lan_*``), not what it delivers.
    """

    net: nn.Module
    img_range: float
    config: InferenceConfig
    is_teacher: bool


def load_for_inference(
    weights: str | os.PathLike[str], key: str | None = None, network: Mapping[str, Any] | None = None
) -> LoadedNetwork:
    """Build the network that a weights file holds. See :class:`Denoiser` for the arguments and errors."""
    content = read_weights(weights)
    state = state_dict_of(content, weights, key)
    block = network or content.get('network') or infer_network_options(state)
    if block is None:
        raise UserError(
            f'{weights}: not of a network known here ({", ".join(OWN_NETWORKS)}). Say which: network={{...}} in '
            'Python, --network on the command line'
        )
    if network:
        net = build_network(network, 'network')
        load_state(net, state, weights)
    else:
        net = build_card_network(block, state, weights)
    if isinstance(net, FFDNet) and net.sigma is None:
        raise UserError(
            f"{weights}: FFDNet needs the noise level (8-bit grey levels): --network '{{type: FFDNet, num_feat: "
            f"{net.num_feat}, sigma: 25}}', or the argument network of Denoiser"
        )
    role = content.get('role')
    return LoadedNetwork(
        net,
        content.get('img_range') or (1 if network else 255),
        InferenceConfig.from_file(content.get('inference'), str(weights)),
        isinstance(net, TEACHERS) if role is None else role not in DELIVERED_ROLES,
    )


class Denoiser:
    """Denoise images of any size with a trained network, in bounded memory.

    Args:
        weights: a ``net_*.pth`` of a training, or a checkpoint of the authors of SASSID, AP-BSN, SDAP or AMSNet (with
            ``network``, unless it is a DBSNl). The file's content gives the network, its range and its inference.
        device: ``'auto'`` (a GPU if there is one), or torch's name of a device.
        tile: side of a tile in pixels, a multiple of 32; 0: the whole image at once.
        overlap: context pixels read on each side of a tile, a multiple of 32; from 128 on, the tiled and the untiled
            result are the same to rounding, except for methods that draw masks: each tile has its own draws.
        self_ensemble: mean over the eight flips and turns: slightly better, eight times slower.
        precision: of the network's inner layers: ``'fp32'``, ``'bf16'``, ``'fp16'``, or ``'auto'``: bf16 where the
            hardware multiplies it natively and the network states that half precision is safe
            (:mod:`basicsr_sassid.archs.capabilities`). Arithmetic on pixels is float32.
        key: ``'params'`` or ``'params_ema'``; by default the average where the file has one.
        network: option block of any network of BasicSR's registry, ``{type: NAME, ...}``; by default the file's, which
            may name networks of this package alone.
        img_range: value of white for the network; by default the file's, and 1 with ``network``.
        inference: an :class:`InferenceConfig`, or its keys; by default the file's. AP-BSN without R3: ``{'pd_b': 2}``;
            one plain pass: ``{}``. ``multiple_of`` is kept, being the network's.
        blind_size: side, or (height, width), of a BNN's blind neighbourhood in pixels, odd, at most 127; 0: nothing is
            hidden; by default as trained, or as ``inference`` states. A smaller one than in training keeps more detail,
            and more of noise that is correlated further; height < width suits noise that is correlated along rows.

    Attributes:
        is_teacher: the network is a teacher of a training, not what it delivers; see :func:`teacher_note`.

    Raises:
        UserError: the file is no weights file, is damaged, or names a network that is not of this package; the device
            does not exist; tile or overlap is no multiple of the network's grid; an unknown key or value in
            ``inference``; another ``blind_size``, or one for a network that takes none.

    Example:
        >>> denoise = Denoiser(weights, self_ensemble=True)     # net_g_latest.pth, student.safetensors ...
        >>> denoise(np.zeros((40, 50, 3), np.uint8)).shape
        (40, 50, 3)
    """

    def __init__(  # noqa: PLR0913  public API: an argument per setting
        self,
        weights: str | os.PathLike[str],
        device: str = 'auto',
        tile: int = 512,
        overlap: int = 128,
        self_ensemble: bool = False,
        precision: str = 'auto',
        key: str | None = None,
        network: Mapping[str, Any] | None = None,
        img_range: float | None = None,
        inference: InferenceConfig | Mapping[str, Any] | None = None,
        blind_size: BlindSize | None = None,
    ) -> None:
        loaded = load_for_inference(weights, key, network)
        if img_range is not None and not (math.isfinite(img_range) and img_range > 0):
            raise UserError(f'img_range: expected a number above 0, got {img_range}')
        self.net, self.img_range = loaded.net, img_range or loaded.img_range
        self.is_teacher = loaded.is_teacher
        self.inference = _overridden(loaded.config, inference, blind_size)
        check_blind_size(self.net, self.inference, 'blind_size')
        self.device = choose_device(device)
        check_choice(precision, PRECISIONS, 'precision')
        capabilities = capabilities_of(self.net)
        is_safe = precision != 'auto' or capabilities.half_precision
        self.dtype = choose_dtype(precision if is_safe else 'fp32', self.device)
        self.net.to(self.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        grid = capabilities.multiple_of
        if tile < 0 or tile % grid or overlap < 0 or overlap % grid:
            raise UserError(f'tile and overlap: expected multiples of {grid}, got {tile} and {overlap}')
        # tiles start on the network's grid in every sub-image, and have the same context there
        self.multiple_of = self.inference.pd_b * math.lcm(grid, self.inference.multiple_of)
        self.tile, self.overlap = (
            -(-pixels // self.multiple_of) * self.multiple_of
            for pixels in (0 if capabilities.global_context else tile, overlap * self.inference.pd_b)
        )
        self.self_ensemble = self_ensemble

    def __call__(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Denoise one image.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in [0, 1].
            progress: called with the fraction done, 0 to 1.

        Returns:
            The denoised image: same shape, dtype and range; integers rounded, all clipped to the range.

        Raises:
            UserError: another kind of image, see :func:`checked_image`; a prediction that is not finite.
        """
        pixels = checked_image(image)
        return self.denoise_any_range(pixels, progress).reshape(image.shape)

    def denoise_any_range(self, image: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Denoise an image whose floats may leave [0, 1], as the probes of :func:`monte_carlo_sure` do."""
        pixels = as_hwc(image)
        white = white_level(pixels.dtype)

        def denoise_tile(tile: np.ndarray, box: Box) -> np.ndarray:
            denoised = self._predict(tile.astype(np.float32) * (self.img_range / white)) / self.img_range
            if not np.isfinite(denoised).all():
                raise UserError('the result is not finite: the weights are damaged, or img_range is not theirs')
            denoised = denoised.clip(0, 1) * white
            return denoised.round() if white > 1 else denoised

        untiled = -(-max(pixels.shape[:2]) // self.multiple_of) * self.multiple_of
        return process_tiles(
            pixels, denoise_tile, self.tile or untiled, self.overlap, self.multiple_of, progress
        ).reshape(image.shape)

    @torch.no_grad()
    def _predict(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) float32 in [0, img_range] -> the same, denoised."""
        is_grey = pixels.shape[2] == 1
        x = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].to(self.device)
        y = self._forward(x.expand(-1, 3, -1, -1) if is_grey else x)
        y = y.mean(dim=1, keepdim=True) if is_grey else y
        return y[0].float().permute(1, 2, 0).cpu().numpy()

    def _forward(self, x: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            if self.self_ensemble:
                return mean_over_symmetries(self._infer, x, self._infer_turned)
            return self._infer(x.contiguous(memory_format=torch.channels_last))

    def _infer(self, x: Tensor) -> Tensor:
        return subsampled_inference(self.net, x, self.inference)

    def _infer_turned(self, x: Tensor) -> Tensor:
        return subsampled_inference(self.net, x, self.inference.of_turned_image())


def _overridden(
    config: InferenceConfig, inference: InferenceConfig | Mapping[str, Any] | None, blind_size: BlindSize | None
) -> InferenceConfig:
    """The given inference with the multiple that the network needs; the file's where none is given. ``blind_size``
    replaces that of either, unless it is None."""
    if isinstance(inference, InferenceConfig):
        config = inference
    elif inference is not None:
        config = InferenceConfig.parse({'multiple_of': config.multiple_of, **inference}, 'inference')
    if blind_size is None:
        return config
    return InferenceConfig.parse({**config.model_dump(), 'blind_size': blind_size}, '')


def teacher_note(denoise: Denoiser, weights: str | os.PathLike[str]) -> str | None:
    """One sentence for the user who denoises with a teacher's weights; None for any other network."""
    if not denoise.is_teacher:
        return None
    return (
        f'note: {weights} holds a teacher ({type(denoise.net).__name__}), which is for training; the network to '
        'denoise with is the student, net_g_*.pth'
    )
