"""The networks of this package as architectures of spandrel; :mod:`.spandrel` has the entry points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from spandrel import Architecture, ImageModelDescriptor, ModelTiling, UnsupportedModelError
from torch import Tensor, nn

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.archs.unet_arch import DenoisingUNet
from basicsr_sassid.io.author_checkpoints import convert_author_state_dict, infer_network_options
from basicsr_sassid.io.weights_card import OWN_NETWORKS

_GREY_LEVELS = 255
# Of the test image's variance. Measured on a SASSID training: students 0.08 or less from 166 iterations on, LANs 0.09
# or less from 700 on; the same in [0, 1]: 0.7 to 57.
_MAX_ERROR = 0.25
_REFUSED = {
    'BNN': 'the weights of a BNN do not determine its blind_size',
    'DBSNl': 'the weights of a DBSNl do not determine its passes and its range (AP-BSN, SDAP)',
}
_USE_LOAD = 'basicsr_sassid.integrations.spandrel.load(path) reads from the file how its network is used.'


class UnitRangeNetwork(nn.Module):
    """A network for images in [0, 1], whatever range it was trained in.

    A module, not spandrel's ``call_fn``: programs that export ``descriptor.model`` to ONNX need the range too.

    Args:
        net: the network.
        img_range: value of white for ``net``.

    Shape:
        (N, C, H, W) in [0, 1] -> (N, C, H, W), not clipped.
    """

    def __init__(self, net: nn.Module, img_range: float) -> None:
        super().__init__()
        self.net = net
        self.img_range = img_range

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x * self.img_range) / self.img_range


class SassidArchitecture(Architecture[UnitRangeNetwork]):
    """One class of networks of this package: it recognises state dicts of that class, loads and describes them.

    Args:
        kind: class name, a key of ``OWN_NETWORKS``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(
            id=f'basicsr_sassid.{kind}',
            name=f'SASSID {kind}',
            detect=lambda state: _fitting_options(state).get('type') == kind,
        )
        self.kind = kind

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[UnitRangeNetwork]:
        """Load a state dict, under this package's or the SASSID authors' names, for grey levels in [0, 255].

        Raises:
            UnsupportedModelError: the state dict does not determine how the network is used.
        """
        if self.kind in _REFUSED:
            raise UnsupportedModelError(f'{_REFUSED[self.kind]}. {_USE_LOAD}')
        net = build_unit_range(_fitting_options(state_dict), convert_author_state_dict(state_dict), _GREY_LEVELS)
        if problem := range_problem(net):
            raise UnsupportedModelError(f'{problem} {_USE_LOAD}')
        return self.describe(net)

    def describe(self, net: UnitRangeNetwork) -> ImageModelDescriptor[UnitRangeNetwork]:
        """Spandrel's descriptor of a network with its weights loaded."""
        convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
        return ImageModelDescriptor(
            net.eval(),
            net.state_dict(),
            architecture=self,
            purpose='Restoration',
            tags=[f'{convs[0].out_channels}nf'],
            # measured on trained networks: float16 within 0.2 of a grey level of float32; bfloat16 has steps of one
            # grey level above 128, and a cast of the module reaches the last layer, which autocast spares
            supports_half=True,
            supports_bfloat16=False,
            scale=1,
            input_channels=convs[0].in_channels,
            output_channels=convs[-1].out_channels,
            tiling=_tiling(net.net),
        )


def _tiling(net: nn.Module) -> ModelTiling:
    if any(isinstance(module, nn.AdaptiveAvgPool2d) for module in net.modules()):
        return ModelTiling.INTERNAL  # spandrel's value for "do not tile": channel attention averages over the input
    # a U-Net tile equals the whole image if it starts on the pooling grid and reads 128 pixels on each side; programs
    # that tile read fewer
    return ModelTiling.DISCOURAGED if isinstance(net, (DenoisingUNet, BNN)) else ModelTiling.SUPPORTED


def build_unit_range(block: Mapping[str, Any], state: dict[str, Tensor], img_range: float) -> UnitRangeNetwork:
    """Build a network from its option block ``{type: NAME, ...}`` and load its weights.

    Raises:
        TypeError: the network does not take a key of the block.
        ValueError: the network refuses a value of the block.
        RuntimeError: the state dict does not fit.
    """
    net = _build(block)
    net.load_state_dict(state)
    return UnitRangeNetwork(net, img_range).eval().requires_grad_(False)


@torch.inference_mode()
def range_problem(net: UnitRangeNetwork) -> str | None:
    """Whether a test image confirms that the network works in one pass and in grey levels, which weights do not state.

    The network must return the image in [0, 255]. In [0, 1] it must either return something else, or the same to one
    grey level. A network trained in [0, 1] tends to fail: its biases are too small to matter in [0, 255], so that it
    returns the image in both ranges, yet differs (measured: by up to 11 grey levels).

    Args:
        net: on the CPU, in float32.

    Returns:
        None if it is confirmed; else one sentence for the user.
    """
    clean, noisy = _test_image(next(net.parameters()).shape[1])
    in_grey_levels, in_unit_range = (UnitRangeNetwork(net.net, white)(noisy).clamp(0, 1) for white in (255, 1))
    returned, also_returned = (
        (image - clean).square().mean() <= _MAX_ERROR * clean.var() for image in (in_grey_levels, in_unit_range)
    )
    if not returned:
        return (
            'In one pass and in grey levels [0, 255] this network does not return a test image: it is untrained, '
            'or made for another range or for several passes.'
        )
    if also_returned and (in_grey_levels - in_unit_range).abs().max() * 255 > 1:
        return 'The weights do not determine whether this network works in grey levels [0, 255] or in [0, 1].'
    return None


def _test_image(channels: int) -> tuple[Tensor, Tensor]:
    """A smooth grey image, (1, 1, 64, 64) in [0.1, 0.8], and the same with mild noise, (1, channels, 64, 64)."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing='ij')
    clean = (0.45 + 0.25 * torch.sin(5 * x + 2 * y) * torch.cos(4 * y) + 0.1 * (x - y))[None, None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)) * (5 / 255)
    return clean, (clean + noise).expand(-1, channels, -1, -1)


def _fitting_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """Option block of the network whose names and shapes are exactly those of the state dict; ``{}`` if there is none.

    The match is exact, since names such as ``stem.0.weight`` and ``head.weight`` occur in other networks too.
    """
    if not all(isinstance(value, Tensor) for value in state.values()):
        return {}
    try:
        state = convert_author_state_dict(dict(state))
        block: dict[str, Any] = dict(infer_network_options(state) or {})
        if not block:
            return {}
        with torch.device('meta'):
            expected = _build(block).state_dict()
    except (KeyError, ValueError, ZeroDivisionError):  # the names of this package, other shapes
        return {}
    fits = expected.keys() == state.keys() and all(expected[name].shape == value.shape for name, value in state.items())
    return block if fits else {}


def _build(block: Mapping[str, Any]) -> nn.Module:
    return OWN_NETWORKS[block['type']](**{key: value for key, value in block.items() if key != 'type'})
