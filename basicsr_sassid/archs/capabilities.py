"""What a network states about itself, so that inference neither pads, nor tiles, nor rounds it wrongly.

The networks of this package have the attributes ``multiple_of``, ``global_context`` and ``half_precision``; a network
of anybody may have them too. For one that states nothing, cautious values hold: tiling a network that pools over its
whole input gives a wrong picture without an error.
"""
from __future__ import annotations

import dataclasses

from torch import nn

_GLOBAL_LAYERS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.InstanceNorm2d)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """What inference needs to know of a network.

    Attributes:
        multiple_of: grid of the network's pooling in pixels; it pads other sizes itself.
        global_context: the prediction at a pixel depends on the whole input, so a tile's differs from the image's.
        half_precision: the last layer stays in float32 under autocast, so bf16 costs no grey level.
    """
    multiple_of: int = 1
    global_context: bool = False
    half_precision: bool = False


def capabilities_of(net: nn.Module) -> Capabilities:
    """The statements of a network; cautious ones for a network that makes none."""
    pools = any(isinstance(module, _GLOBAL_LAYERS) for module in net.modules())
    return Capabilities(getattr(net, 'multiple_of', 1), getattr(net, 'global_context', pools),
                        getattr(net, 'half_precision', False))
