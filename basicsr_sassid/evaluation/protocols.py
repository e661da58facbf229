"""The protocols of a table, by name: BasicSR metrics with their settings, and what each stands for."""

from __future__ import annotations

from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric

from basicsr_sassid.utils.errors import UserError

# name -> option block of a BasicSR metric, and what stands above its column's explanation
PROTOCOLS: dict[str, tuple[dict[str, Any], str]] = {
    'psnr': (
        {'type': 'calculate_psnr', 'crop_border': 0},
        'dB, of each image (a block of 256x256 in SIDD) on rounded 8-bit RGB; mean over the images',
    ),
    'ssim_gaussian': (
        {'type': 'calculate_ssim', 'crop_border': 0},
        "each channel by itself, Gaussian 11x11: BasicSR's",
    ),
    'ssim_uniform': (
        {'type': 'calculate_ssim_uniform', 'crop_border': 0},
        "each channel by itself, uniform 7x7: scikit-image's default",
    ),
    'ssim_matlab': (
        {'type': 'calculate_ssim_matlab', 'crop_border': 0},
        "the RGB image as a volume, Gaussian 11x11x11: MATLAB's, and the SIDD server's until 2023",
    ),
}


def describe_protocol(protocol: str) -> str:
    """One line about a protocol; ``pyiqa:NAME`` is one of pyiqa's. Raises UserError for an unknown one."""
    if protocol.startswith('pyiqa:') and protocol != 'pyiqa:':
        return f'{protocol.removeprefix("pyiqa:")} of pyiqa'
    if protocol not in PROTOCOLS:
        raise UserError(f'protocols: expected some of {", ".join(PROTOCOLS)} or pyiqa:NAME, got {protocol!r}')
    return PROTOCOLS[protocol][1]


def metric_block(protocol: str) -> dict[str, Any]:
    """The option block of a protocol's BasicSR metric."""
    if protocol.startswith('pyiqa:'):
        return {'type': 'calculate_pyiqa', 'metric': protocol.removeprefix('pyiqa:')}
    return PROTOCOLS[protocol][0]


def evaluate_image(result: np.ndarray, clean: np.ndarray, protocol: str) -> float:
    """A result and its clean reference, both (H, W, 3) uint8 RGB, by one protocol. Raises UserError as metrics do."""
    if result.dtype != np.uint8 or clean.dtype != np.uint8:
        raise UserError(f'{protocol}: expected 8-bit images, got {result.dtype} and {clean.dtype}')
    bgr = {'img': result[..., ::-1], 'img2': clean[..., ::-1]}  # as in BasicSR
    return float(calculate_metric(bgr, metric_block(protocol)))
