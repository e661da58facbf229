"""SFD-IQA as a metric of BasicSR, for a ``val.metrics`` block and for ``sassid benchmark``."""

from __future__ import annotations

import numpy as np
from basicsr.utils.registry import METRIC_REGISTRY

from basicsr_sassid.io.atomic import file_stamp
from basicsr_sassid.metrics.sfd_quality import load_quality
from basicsr_sassid.utils.errors import UserError, require_path


@METRIC_REGISTRY.register()
def calculate_sfd_iqa(
    img: np.ndarray,
    weights: str | None = None,
    crop_border: int = 0,
    feature_fraction: float | None = None,
    patch_size: int | None = None,
    shorter_side: int | None = None,
    semantic_weights: str | None = None,
    device: str = 'cpu',
    **kwargs: object,
) -> float:
    """Quality of an image without a reference, in [0, 1], higher is better.

    Args:
        img: (H, W, 3) BGR as BasicSR's models give it, uint8.
        weights: ``sfd_*.pth`` of a training of SFDModel.
        crop_border: pixels left out on every side.
        feature_fraction, patch_size, shorter_side, semantic_weights, device: see SFDQuality.
        kwargs: ignored, such as the reference ``img2`` that BasicSR passes.

    Raises:
        UserError: no weights, see also SFDQuality.
    """
    if weights is None:
        raise UserError('calculate_sfd_iqa: key weights is missing: sfd_*.pth of a training of SFDModel')
    stamp = file_stamp(require_path(weights, 'weights'))
    quality = load_quality(stamp, feature_fraction, patch_size, shorter_side, semantic_weights, device)
    box = slice(crop_border, -crop_border or None)
    return quality(np.ascontiguousarray(img[box, box, ::-1]))
