"""The two features of SFD in one pass of a frozen network: a middle feature map, and the final feature of the image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from basicsr_sassid.losses.prompt_pair import Encode
from basicsr_sassid.losses.semantic_features import PRETRAINED, SemanticFeatures, submodule


class SemanticPair(nn.Module):
    """A frozen network with the feature map that Feat-D sees and the final feature that prompts are compared with.

    Args:
        backbone, weights, input_norm: see SemanticFeatures.
        layer: module of the feature map.
        final_layer: module of the final feature; it is behind ``layer``.

    Shape:
        (N, 3, H, W) in [0, 1] -> (N, C, h, w) and (N, D), float32.

    Attributes:
        encode_text: context vectors to text features; None for a backbone without a text tower.

    Raises:
        UserError: see SemanticFeatures.
    """

    def __init__(
        self, backbone: str, layer: str, final_layer: str, weights: str = PRETRAINED, input_norm: str = 'auto'
    ) -> None:
        super().__init__()
        self.features = SemanticFeatures(backbone, final_layer, weights, input_norm)
        self.encode_text: Encode | None = None
        self._middle: Tensor | None = None
        submodule(self.features.backbone, layer, backbone).register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._middle = output.clone()  # the next layer may be an activation that works in place

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        final = self.features(images).flatten(1)
        middle, self._middle = self._middle, None
        if middle is None:
            raise ValueError('SemanticPair: final_layer lies before layer')
        return middle, final
