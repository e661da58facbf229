"""Capabilities of a network: the padding, tiling and precision that inference may use.

The networks of this package have the attributes ``multiple_of``, ``global_context`` and ``half_precision``; any other
network may have them too. For a network without them cautious values hold: tiling a network that pools over its whole
input gives a wrong image without an error.
"""

from __future__ import annotations

import dataclasses

from torch import nn

_GLOBAL_LAYERS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.InstanceNorm2d)


@dataclasses.dataclass(frozen=True)
class Capabilities:
    """Properties of a network that inference depends on.

    Attributes:
        multiple_of: grid of the network's pooling in pixels; the network pads other sizes itself.
        global_context: the prediction at a pixel depends on the whole input, so a tile's differs from the image's.
        half_precision: the last layer stays in float32 under autocast, so bf16 errors stay below one grey level.
    """

    multiple_of: int = 1
    global_context: bool = False
    half_precision: bool = False


def capabilities_of(net: nn.Module) -> Capabilities:
    """The capabilities that a network states, and cautious values for those that it does not state."""
    pools = any(isinstance(module, _GLOBAL_LAYERS) for module in net.modules())
    return Capabilities(
        getattr(net, 'multiple_of', 1), getattr(net, 'global_context', pools), getattr(net, 'half_precision', False)
    )
