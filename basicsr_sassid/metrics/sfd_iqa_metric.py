"""SFD-IQA as a metric of BasicSR, for a ``val.metrics`` block and for ``sassid benchmark``."""

from __future__ import annotations

from typing import Any

import numpy as np
from basicsr.metrics.metric_util import reorder_image
from basicsr.utils.registry import METRIC_REGISTRY

from basicsr_sassid.metrics.sfd_quality import load_quality
from basicsr_sassid.utils.errors import UserError, require_path

_OPTIONS = ('feature_fraction', 'patch_size', 'shorter_side', 'semantic_weights', 'device')


@METRIC_REGISTRY.register()
def calculate_sfd_iqa(
    img: np.ndarray, weights: str | None = None, crop_border: int = 0, input_order: str = 'HWC', **kwargs: Any
) -> float:
    """Quality of an image without a reference, in [0, 1], higher is better.

    Args:
        img: (H, W, 3) BGR as BasicSR's models give it, uint8.
        weights: ``sfd_*.pth`` of a training of SFDModel.
        crop_border: pixels left out on every side.
        input_order: ``HWC`` or ``CHW``.
        kwargs: options of SFDQuality: ``feature_fraction``, ``patch_size``, ``shorter_side``, ``semantic_weights``,
            ``device``; others, such as BasicSR's ``img2``, are ignored.

    Raises:
        UserError: no weights, see also SFDQuality.
    """
    if weights is None:
        raise UserError('calculate_sfd_iqa: key weights is missing: sfd_*.pth of a training of SFDModel')
    path = require_path(weights, 'weights')
    stat = path.stat()
    quality = load_quality(
        str(path), (stat.st_mtime, stat.st_size), **{key: kwargs[key] for key in _OPTIONS if key in kwargs}
    )
    box = slice(crop_border, -crop_border or None)
    return quality(np.ascontiguousarray(reorder_image(img, input_order)[box, box, ::-1]))
