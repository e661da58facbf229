"""The two features of SFD in one pass of a frozen network: a middle feature map, and the final feature of the image."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from basicsr_sassid.losses.clip_backbone import CLIP
from basicsr_sassid.losses.clip_text import ClipTextTower
from basicsr_sassid.losses.prompt_pair import Encode
from basicsr_sassid.losses.semantic_backbones import PRETRAINED, find_submodule
from basicsr_sassid.losses.semantic_features import SemanticFeatures
from basicsr_sassid.utils.errors import UserError

WORDS = 'good photo.', 'bad photo.'  # behind the context vectors, as in CLIP-IQA+


class SemanticPair(nn.Module):
    """A frozen network with the feature map that Feat-D sees and the final feature that prompts are compared with.

    Args:
        backbone, weights, input_norm: see SemanticFeatures.
        layer: module of the feature map.
        final_layer: module of the final feature, behind ``layer``; the same where the final feature is not used.

    Shape:
        (N, 3, H, W) in [0, 1] -> (N, C, h, w) and (N, D), float32.

    Raises:
        UserError: see SemanticFeatures; in the forward pass, layers in the wrong order.
    """

    def __init__(
        self, backbone: str, layer: str, final_layer: str, weights: str = PRETRAINED, input_norm: str = 'auto'
    ) -> None:
        super().__init__()
        try:
            self.features = SemanticFeatures(backbone, final_layer, weights, input_norm)
        except UserError as error:  # whose argument is called layer there
            raise UserError(f'final_{error}' if str(error).startswith('layer:') else str(error)) from error
        has_text = backbone.startswith(CLIP) and final_layer != layer
        self.text = ClipTextTower(backbone, weights) if has_text else None
        self.words = [self.text.tokenize(text) for text in WORDS] if self.text else []
        self.layers = layer, final_layer
        self._middle: Tensor | None = None
        if final_layer != layer:  # at which the pass stops
            find_submodule(self.features.backbone, layer, backbone).register_forward_hook(self._keep)

    @property
    def encode_text(self) -> Encode | None:
        """Context vectors to text features; None for a backbone without a text tower."""
        text, words = self.text, self.words
        return None if text is None else lambda context: text(context, words)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise UserError(f'layer: {self.layers[0]} gives a {type(output).__name__}, not one tensor')
        self._middle = output.clone()  # the next layer may be an activation that works in place

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        final = self.features(images)
        if self.layers[0] == self.layers[1]:
            return final, final.flatten(1)
        middle, self._middle = self._middle, None
        if middle is None:
            raise UserError('SemanticPair: final_layer lies before layer, {1} before {0}'.format(*self.layers))
        return middle, final.flatten(1)
