"""TG-D: a pair of learnable prompts for SFD (Dong et al., CVPR 2025, arXiv 2503.19295).

A reconstruction: the abstract names learnable prompt pairs, trained adversarially on CLIP's final feature; the paper's
body could not be read. Context vectors and their use are those of CLIP-IQA+ and CLIP-LIT as their papers describe them.
Licence: Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

Encode = Callable[[Tensor], Tensor]  # context vectors (2, num_context, width) -> text features (2, D)


@ARCH_REGISTRY.register()
class LearnablePromptPair(nn.Module):
    """Compares an image's final semantic feature with a positive and a negative prompt.

    With a text tower the parameters are the context vectors of two prompts, which the tower, frozen and outside of this
    module, turns into text features. Without one they are the two features themselves: class vectors.

    Args:
        num_features: length D of the image's feature; class vectors have it too.
        num_context: context vectors of each prompt; 0: class vectors, for a backbone without a text tower.
        width: length of a context vector; 512 in CLIP RN50.
        logit_scale: factor of the cosines, at most 100 as in CLIP; a lower one keeps the prompts from winning at once.

    Shape:
        (N, D) -> (N, 2): logits of the positive and the negative prompt.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, num_features: int, num_context: int = 0, width: int = 512, logit_scale: float = 100.0) -> None:
        super().__init__()
        sizes = num_features, num_context, width
        are_whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
        if not are_whole or num_features < 1 or num_context < 0 or width < 1:
            raise ValueError(
                'LearnablePromptPair: expected num_features >= 1, num_context >= 0 and width >= 1, whole numbers, got '
                f'{num_features!r}, {num_context!r} and {width!r}'
            )
        if isinstance(logit_scale, bool) or not isinstance(logit_scale, int | float) or not 0 < logit_scale <= 100:
            raise ValueError(f'logit_scale: expected a number above 0, up to 100, got {logit_scale!r}')
        self.num_context, self.logit_scale = num_context, logit_scale
        shape = (2, num_context, width) if num_context else (2, num_features)
        self.prompts = nn.Parameter(torch.randn(shape) * 0.02)

    def forward(self, features: Tensor, encode: Encode | None = None) -> Tensor:
        texts = self.prompts if encode is None else encode(self.prompts)
        return self.logit_scale * F.normalize(features.float()) @ F.normalize(texts.float()).T
