"""The typed block ``train.sfd_opt`` of SFDModel."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from basicsr_sassid.losses.semantic_backbones import PRETRAINED
from basicsr_sassid.utils.schema import OptionBlock


class SemanticOptions(OptionBlock):
    """Block ``train.sfd_opt.features``: the frozen network in whose features images are discriminated.

    Attributes:
        backbone: CLIP (``clip/RN50-quickgelu``) or a classifier: ``efficientnet-lite0``, one of torchvision,
            ``timm/NAME``.
        layer: module whose feature map Feat-D sees.
        final_layer: module whose output the prompts are compared with; it is behind ``layer``.
        weights: ``imagenet`` (the published ones), a file, or ``random``.
        input_norm: see SemanticFeatures.
    """

    backbone: str = 'clip/RN50-quickgelu'
    layer: str = 'layer3'
    final_layer: str = 'embedding'
    weights: str = PRETRAINED
    input_norm: str = 'auto'


class SFDOptions(OptionBlock):
    """Block ``train.sfd_opt`` of SFDModel.

    Attributes:
        features: the frozen network.
        feature_weight: factor of Feat-D's loss in the generator's step; 0: off, without ``network_feature_d``.
        text_weight: factor of TG-D's loss likewise; 0: off, without ``network_prompt``.
        feature_interval: iterations between the steps of Feat-D.
        text_interval: iterations between the steps of the prompts, which can win at once.
        gan_type: of Feat-D's loss, as in BasicSR's GANLoss.
    """

    features: SemanticOptions = SemanticOptions()
    feature_weight: float = Field(default=0.01, ge=0, le=10**6)
    text_weight: float = Field(default=0.01, ge=0, le=10**6)
    feature_interval: int = Field(default=1, ge=1, le=10**6)
    text_interval: int = Field(default=1, ge=1, le=10**6)
    gan_type: Literal['vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge'] = 'vanilla'
