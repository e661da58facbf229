"""LPIPS, DISTS, NIQE and the other metrics of the pyiqa library, for a ``val.metrics`` block."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from basicsr.metrics.metric_util import reorder_image
from basicsr.utils.registry import METRIC_REGISTRY

from basicsr_sassid.utils.errors import UserError


@METRIC_REGISTRY.register()
def calculate_pyiqa(
    img: np.ndarray,
    img2: np.ndarray | None = None,
    metric: str = 'lpips',
    crop_border: int = 0,
    input_order: str = 'HWC',
    device: str = 'cpu',
    **kwargs: object,
) -> float:
    """A metric of pyiqa, by its name there (``lpips``, ``dists``, ``niqe`` ...), with or without a reference.

    Args:
        img, img2: (H, W, 3) BGR as BasicSR's models give them, in [0, 255]; ``img2`` is the reference.
        metric: name of the metric in pyiqa.
        crop_border: pixels left out on every side.
        input_order: ``HWC`` or ``CHW``.
        device: torch's name of a device.

    Raises:
        UserError: pyiqa is not installed, knows no such metric, or cannot download its weights.
    """
    score = _metric(metric, device)
    box = slice(crop_border, -crop_border or None)
    tensors = [
        torch.from_numpy(np.ascontiguousarray(reorder_image(image, input_order)[box, box, ::-1]))
        .permute(2, 0, 1)[None]
        .float()
        .div(255)
        .to(device)
        for image in (img, img2)
        if image is not None
    ]
    with torch.no_grad():
        return float(score(*tensors[: 1 if score.metric_mode == 'NR' else 2]))


@functools.cache
def _metric(name: str, device: str) -> Any:
    try:
        import pyiqa  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"metric {name}: pyiqa is not installed. pip install 'basicsr_sassid[iqa]'") from error
    if name not in pyiqa.list_models():
        raise UserError(f'metric {name!r}: pyiqa knows {", ".join(pyiqa.list_models())}')
    try:
        return pyiqa.create_metric(name, device=device)
    except OSError as error:
        raise UserError(
            f'metric {name}: pyiqa cannot download its weights: {error}. Connect, or put them into '
            '~/.cache/torch/hub/pyiqa.'
        ) from error
