"""The charts of report.html: measurements as coordinates of inline SVGs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.training.target_weights import RiskWeights

_WIDTH, _LOSS_HEIGHT, _SIGMA_HEIGHT, _WEIGHT_HEIGHT = 300, 120, 170, 120  # units of the view boxes
_FAINTEST = 0.15  # opacity


def loss_curves(path: Path) -> list[dict[str, Any]]:
    """The losses of each stage.

    Args:
        path: ``curve.csv`` with the lines ``stage,iteration,loss``; may be missing.

    Returns:
        For each stage a dict: ``stage``, ``top`` (the loss at the upper edge), ``raw`` and ``smooth`` (points in
        300 x 120 units).
    """
    if not path.exists():
        return []
    stages: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):  # half a line, of a full disk
            stage, iteration, loss = line.split(',')
            # iterations that were repeated after a stop: the last value counts
            stages.setdefault(stage, {})[int(iteration)] = float(loss)
    return [_loss_curve(stage, points) for stage, points in stages.items()]


def _loss_curve(stage: str, points: dict[int, float]) -> dict[str, Any]:
    iterations = np.array(sorted(points))
    losses = np.array([points[iteration] for iteration in sorted(points)])
    smooth = np.convolve(np.pad(losses, 4, 'edge'), np.ones(9) / 9, 'valid')
    top = float(np.quantile(losses, 0.98)) * 1.1
    x = _WIDTH * (iterations - iterations[0]) / max(iterations[-1] - iterations[0], 1)
    return {
        'stage': stage,
        'top': top,
        'raw': _polyline(x, losses, top, _LOSS_HEIGHT),
        'smooth': _polyline(x, smooth, top, _LOSS_HEIGHT),
    }


def _polyline(x: np.ndarray, y: np.ndarray, top: float, height: float) -> str:
    return ' '.join(f'{a:.1f},{height * (1 - min(b / top, 1)):.1f}' for a, b in zip(x, y))


def correlation_map(noise: NoiseModel) -> dict[str, Any]:
    """The noise's correlation and the blind neighbourhood.

    Returns:
        ``cells``: (column, row, opacity) in 17 x 17 units; ``inset`` and ``side``: corner and side of the blind
        neighbourhood.
    """
    opacity = np.sqrt(np.abs(noise.correlation).clip(0, 1))
    return {
        'cells': [
            (column, row, f'{opacity[row, column]:.2f}')
            for row in range(len(opacity))
            for column in range(len(opacity))
            if opacity[row, column] > 0.02
        ],
        'inset': MAX_LAG - noise.blind_size() // 2,
        'side': noise.blind_size(),
    }


def sigma_curves(noise: NoiseModel) -> dict[str, Any]:
    """The noise's standard deviation by intensity.

    Returns:
        ``top``: grey levels at the upper edge; ``channels``: R, G, B -> ``dots`` (measured points) and ``line`` (of the
        fitted variance) in 300 x 170 units.
    """
    top = 1.15 * max([1.0, *(points[:, 1].max() for points in noise.sigma_curve.values() if len(points))])
    channels = {}
    for name, points in noise.sigma_curve.items():
        slope, offset = noise.variance_fit[name]
        intensity = np.linspace(points[0, 0], points[-1, 0], 40) if len(points) > 1 else np.empty(0)
        fitted = np.sqrt(np.maximum(slope * intensity + offset, 0))
        channels[name] = {
            'dots': [(f'{x / 255 * _WIDTH:.1f}', f'{_SIGMA_HEIGHT * (1 - y / top):.1f}') for x, y in points],
            'line': _polyline(intensity / 255 * _WIDTH, fitted, top, _SIGMA_HEIGHT),
        }
    return {'top': top, 'channels': channels}


def weight_bars(weights: RiskWeights, sizes: Sequence[str]) -> dict[str, Any]:
    """The weights of the blind sizes by the local standard deviation: one stacked bar a bin.

    Args:
        weights: of K sizes in B bins.
        sizes: their K texts, from the smallest.

    Returns:
        ``width``: of a bar; ``segments``: dicts of ``x``, ``y``, ``height`` (in 300 x 120 units), ``opacity`` and
        ``text``, the smallest size at the bottom; ``edges``: (x, grey levels as text) between the bars; ``legend``:
        (x, opacity, size).
    """
    table = weights.table.double().numpy()
    fractions = table / table.sum(axis=1, keepdims=True)
    tops = fractions.cumsum(axis=1)
    width = _WIDTH / len(table)
    opacities = [f'{opacity:.2f}' for opacity in np.linspace(_FAINTEST, 1, len(sizes))]
    return {
        'width': f'{width:.1f}',
        'segments': [
            {
                'x': f'{number * width:.1f}',
                'y': f'{_WEIGHT_HEIGHT * (1 - tops[number, k]):.1f}',
                'height': f'{_WEIGHT_HEIGHT * fraction:.1f}',
                'opacity': opacities[k],
                'text': f'blind size {sizes[k]}: {100 * fraction:.0f} %',
            }
            for number, row in enumerate(fractions)
            for k, fraction in enumerate(row)
            if fraction > 0
        ],
        'edges': [(f'{(number + 1) * width:.1f}', f'{edge:.1f}') for number, edge in enumerate(weights.edges.tolist())],
        'legend': [
            (f'{number * _WIDTH / len(sizes):.1f}', opacity, size)
            for number, (opacity, size) in enumerate(zip(opacities, sizes))
        ],
    }
