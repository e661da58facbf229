"""Export of a trained network to ONNX."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.io.atomic import atomic_write
from basicsr_sassid.utils.errors import UserError


class _UnitRange(nn.Module):
    """A network of grey levels, applied to images in [0, 1]."""

    def __init__(self, net: nn.Module, img_range: float) -> None:
        super().__init__()
        self.net, self.img_range = net, img_range

    def forward(self, lq: Tensor) -> Tensor:
        return self.net(lq * self.img_range) / self.img_range


def export_onnx(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str],
    network: Mapping[str, Any] | None = None,
    report: Callable[[str], object] = lambda step: None,
) -> None:
    """Write a network as ONNX: ``lq`` (N, 3, H, W) float32 RGB in [0, 1] -> ``result``, likewise; any N, H and W.

    Args:
        weights, network: see :class:`Denoiser`.
        output: file to write, ``*.onnx``, with the weights inside.
        report: called with each step in words, before it starts.

    Raises:
        UserError: the weights do not load; onnx is not installed; the file cannot be written.
    """
    denoise = Denoiser(weights, 'cpu', precision='fp32', network=network)
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f'export needs {error.name}: pip install onnx onnxscript') from error
    net = _UnitRange(denoise.net, denoise.img_range).eval()
    # FFDNet's first layer sees sub-images and the noise level
    channels = getattr(denoise.net, 'num_in_ch', None) or next(net.parameters()).shape[1]
    # sides that are neither equal nor multiples of 32: the padding must stay in the graph
    example = torch.rand(2, channels, 70, 101)
    report(f'tracing {type(denoise.net).__name__}: up to a few minutes')
    program = torch.onnx.export(
        net,
        (example,),
        input_names=['lq'],
        output_names=['result'],
        dynamo=True,
        dynamic_shapes={'lq': dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)},
        verbose=False,
    )
    assert program is not None  # dynamo=True returns a program
    report(f'writing {output}')
    with atomic_write(output) as partial:
        program.save(partial)
