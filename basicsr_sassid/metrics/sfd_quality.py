"""SFD-IQA: quality of an image without a reference, from a trained Feat-D and prompts (Dong et al., CVPR 2025).

A reconstruction: that the trained parts give the quality without further training is in the abstract
(arXiv 2503.19295); the formula is ours.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from basicsr_sassid.archs.feature_discriminator_arch import FeatureDiscriminator
from basicsr_sassid.io.raw_weights import read_pth
from basicsr_sassid.losses.d2sm_loss import extract_patches
from basicsr_sassid.losses.prompt_pair import LearnablePromptPair
from basicsr_sassid.losses.semantic_backbones import RANDOM
from basicsr_sassid.losses.semantic_pair import SemanticPair
from basicsr_sassid.utils.errors import UserError, require_path

FORMAT = 1  # of sfd_*.pth
LEAST_SIDE = 64  # pixels: of an image or a patch, below which middle features are a few pixels
_NETWORKS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    'feature_d': (FeatureDiscriminator, ('num_in_ch', 'num_feat', 'variant')),
    'prompt': (LearnablePromptPair, ('num_features', 'num_context', 'width', 'logit_scale')),
}
_LARGEST = {'num_features': 10**6}  # numbers in the file; all others up to 4096
_FEATURES = ('backbone', 'layer', 'final_layer', 'weights', 'input_norm')


class SFDQuality:
    """Quality of images in [0, 1], higher is better.

    .. math:: Q(I) = a \\cdot \\mathrm{mean}\\, \\mathrm{sigmoid}(D(\\phi(I))) + (1 - a) \\cdot q(I)

    with Feat-D's logits D of the middle features phi, and q the probability of the positive prompt for the final one.
    Where Feat-D was trained with ``gan_type: lsgan``, whose targets are 0 and 1, its outputs are cut to [0, 1] instead.

    Args:
        weights: ``sfd_*.pth`` of a training of SFDModel.
        feature_fraction: a, in [0, 1]; default: 0.5, or the trained part alone where the file holds one.
        patch_size: side of patches in pixels, whose mean is the quality; None: the whole image at once.
        shorter_side: pixels to which the image's shorter side is reduced or enlarged first; None: as it is.
        semantic_weights: file of the semantic network, where it was trained with a file that is elsewhere here.
        device: torch's name of a device.

    Raises:
        UserError: no file, one that SFDModel has not written, or one trained on random features; an option out of its
            range; see also SemanticFeatures.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str],
        feature_fraction: float | None = None,
        patch_size: int | None = None,
        shorter_side: int | None = None,
        semantic_weights: str | None = None,
        device: str = 'cpu',
    ) -> None:
        for name, value in (('patch_size', patch_size), ('shorter_side', shorter_side)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < LEAST_SIDE):
                raise UserError(f'{name}: expected a number of pixels >= {LEAST_SIDE}, got {value!r}')
        path = require_path(weights, 'weights')
        content = read_pth(path, str(path))
        if (
            not isinstance(content, Mapping)
            or content.get('format') != FORMAT
            or not _is_block(content.get('features'))
        ):
            raise UserError(f'{path} is no file of SFD-IQA: SFDModel writes it as sfd_*.pth beside its networks')
        features = dict(content['features'])
        self.is_least_squares = content.get('gan_type') == 'lsgan'
        if semantic_weights:
            features['weights'] = semantic_weights
        if features.get('weights') == RANDOM:
            raise UserError(f'{path} was trained on random features (weights: random); its numbers mean nothing')
        self.nets = {name: _load(content[name], name, path).to(device) for name in _NETWORKS if content.get(name)}
        self.feature_fraction = _fraction(feature_fraction, self.nets, path)
        self.pair = SemanticPair(**features).to(device)
        self.patch_size, self.shorter_side, self.device = patch_size, shorter_side, device

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> float:
        """Quality in [0, 1] of an image, (H, W, 3) RGB, uint8 or float32 in [0, 1].

        Raises:
            UserError: the image has less than 64 pixels a side.
        """
        height, width = image.shape[:2]
        if min(height, width) < LEAST_SIDE:
            raise UserError(f'SFD-IQA: expected an image of {LEAST_SIDE} pixels a side or more, got {height}x{width}')
        pixels = image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1)
        if self.shorter_side:
            scale = self.shorter_side / min(height, width)
            kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            size = max(round(width * scale), LEAST_SIDE), max(round(height * scale), LEAST_SIDE)
            pixels = cv2.resize(pixels, size, interpolation=kind).clip(0, 1)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].to(self.device)
        patches = extract_patches(tensor, self.patch_size, self.patch_size or 1)
        return float(np.mean([float(self._quality(patch[None])) for patch in patches]))

    def _quality(self, image: Tensor) -> Tensor:
        middle, final = self.pair(image)
        total = torch.zeros((), device=image.device)
        if self.feature_fraction > 0:
            logits = self.nets['feature_d'](middle)
            values = logits.clamp(0, 1) if self.is_least_squares else logits.sigmoid()
            total = total + self.feature_fraction * values.mean()
        if self.feature_fraction < 1:
            prompt: Any = self.nets['prompt']
            if not prompt.num_context and final.shape[1] != prompt.prompts.shape[1]:
                raise UserError(
                    f'SFD-IQA: the prompts were trained on {prompt.prompts.shape[1]} features, and an image of this '
                    f'size has {final.shape[1]}. Set the patch size to the side of the training crops.'
                )
            logits = prompt(final, self.pair.encode_text if prompt.num_context else None)
            total = total + (1 - self.feature_fraction) * logits.softmax(dim=1)[:, 0].mean()
        return total


def _fraction(fraction: float | None, nets: Mapping[str, nn.Module], path: Path) -> float:
    if not nets:
        raise UserError(f'{path} holds neither Feat-D nor prompts')
    if fraction is None:
        return 0.5 if len(nets) == 2 else float('feature_d' in nets)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise UserError(f'feature_fraction: expected a number from 0 to 1, got {fraction!r}')
    for name, is_used in (('feature_d', fraction > 0), ('prompt', fraction < 1)):
        if is_used and name not in nets:
            raise UserError(f'feature_fraction: {fraction:g} needs {name}, which {path} lacks. Leave it out.')
    return float(fraction)


def _is_block(features: object) -> bool:
    return isinstance(features, Mapping) and all(
        key in _FEATURES and isinstance(value, str) for key, value in features.items()
    )


def _load(block: Any, name: str, path: Path) -> nn.Module:
    kind, keys = _NETWORKS[name]
    try:
        network = dict(block['network'])
        if network.pop('type') != kind.__name__ or not set(network) <= set(keys):
            raise ValueError(f'expected a {kind.__name__} with the arguments {", ".join(keys)}')
        if any(isinstance(v, int | float) and not 0 <= v <= _LARGEST.get(key, 4096) for key, v in network.items()):
            raise ValueError('a number is out of range')
        net = kind(**network).eval().requires_grad_(False)
        net.load_state_dict(block['params'])
    except Exception as error:  # of a file that was changed by hand
        raise UserError(f'{path}: {name} cannot be built: {str(error).splitlines()[0]}') from error
    return net


@functools.lru_cache(maxsize=4)
def load_quality(stamp: tuple[str, int, int], *options: Any) -> SFDQuality:
    """SFDQuality of a file's stamp (its path, size and time) and the other arguments: loaded once, a new file anew."""
    return SFDQuality(stamp[0], *options)
