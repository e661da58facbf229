"""What the noise of photographs is like, from the noisy photographs alone: its level, and how far it is correlated."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from basicsr_sassid._checks import UserError

MAX_LAG = 8  # pixels
PATCH = 32  # side of the squares in which noise is looked for
THRESHOLD = 0.035  # correlation below which a pixel is as good as independent
LARGEST_BLIND_SIZE = 2 * MAX_LAG - 1
_FLATTEST = 0.2  # share of an image's squares
_MOST_SQUARES = 4000  # looked at in an image, evenly spaced
_BINS = 16


@dataclasses.dataclass(frozen=True)
class Noise:
    """What :func:`estimate_noise` found.

    Attributes:
        sigma: (3,), standard deviation of R, G, B in grey levels (0 to 255), over the flat squares.
        correlation: (2 * MAX_LAG + 1, 2 * MAX_LAG + 1), autocorrelation by (rows, columns) of distance, the channels
            taken together; 1 at its centre.
        cross_channel: (3, 3), correlation between R, G and B at the same pixel.
        levels: a row (intensity, sigma) of grey levels for each channel and intensity that occurs, {'R': (n, 2), ...}.
        lines: {'R': (slope, offset), ...}: variance = slope * intensity + offset, fitted to ``levels``.
        num_squares: flat squares that this rests on.
    """
    sigma: np.ndarray
    correlation: np.ndarray
    cross_channel: np.ndarray
    levels: dict[str, np.ndarray]
    lines: dict[str, tuple[float, float]]
    num_squares: int

    def ring(self, radius: int) -> float:
        """Strongest correlation among the pixels on the square ring at ``radius`` (Chebyshev distance)."""
        rows, columns = np.indices(self.correlation.shape) - MAX_LAG
        return float(np.abs(self.correlation[np.maximum(np.abs(rows), np.abs(columns)) == radius]).max())

    def blind_size(self, threshold: float = THRESHOLD) -> int:
        """Smallest odd k whose square holds all correlation above ``threshold``; 1 for white noise, at most 15."""
        beyond = [radius for radius in range(1, MAX_LAG) if self.ring(radius) > threshold]
        return 2 * max(beyond, default=0) + 1


def estimate_noise(images: Iterable[np.ndarray]) -> Noise:
    """Measure the noise of photographs that were taken and processed alike, without clean versions.

    In each image the fifth of all 32x32 squares with the least variance is taken for flat (clipped ones aside). What
    a quadratic surface leaves of them is noise. The surface takes some of the noise with it, which lowers the
    autocorrelation by a constant; it is brought back by letting it end at zero, 7 and 8 pixels away.

    Args:
        images: (H, W) or (H, W, 3) RGB, uint8, uint16, or float in [0, 1], both sides 32 or more.

    Returns:
        The noise of all images together.

    Raises:
        UserError: no image; none has a square that is not clipped; an image is too small or of another shape.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> noisy = np.full((256, 256, 3), 0.5) + rng.normal(0, 0.04, (256, 256, 3))
        >>> noise = estimate_noise([noisy])
        >>> noise.blind_size()
        1
    """
    squares, means = [], []
    for image in images:
        found = _flat_squares(_as_grey_levels(image))
        squares.append(found[0])
        means.append(found[1])
    residual, mean = (np.concatenate(parts) if parts else np.empty(0) for parts in (squares, means))
    if len(residual) == 0:
        raise UserError('noise: no square of 32x32 pixels that is not black or white; there is nothing to measure. '
                        'Give other photographs.')
    variance = residual.var(axis=(1, 2))  # (n, 3)
    levels = {name: _levels(mean[:, channel], variance[:, channel]) for channel, name in enumerate('RGB')}
    lines = {name: _fitted_line(points) for name, points in levels.items()}
    flat = residual.reshape(-1, 3).astype(np.float64)
    scale = np.sqrt((flat ** 2).mean(axis=0))
    cross = (flat.T @ flat / len(flat)) / np.maximum(np.outer(scale, scale), 1e-12)
    correlation = _autocorrelation(residual.transpose(0, 3, 1, 2).reshape(-1, PATCH, PATCH))
    return Noise(np.sqrt(variance.mean(axis=0)), correlation, cross, levels, lines, len(residual))


def _as_grey_levels(image: np.ndarray) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim == 2 or pixels.shape[2:] == (1,):
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < PATCH:
        raise UserError(f'noise: expected images of shape (H, W) or (H, W, 3), {PATCH} pixels a side or more, got '
                        f'{np.shape(image)}')
    white = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1.
    return pixels.astype(np.float32) * (255. / white)


def _flat_squares(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32, 3) without their surfaces, and their (n, 3) means: the flattest of an image."""
    step = max(PATCH // 2, math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / _MOST_SQUARES)))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(0, 1))[::step, ::step]
    squares = windows.reshape(-1, 3, PATCH * PATCH)
    count = max(int(_FLATTEST * len(squares)), 1)
    clipped = ((squares <= 1) | (squares >= 254)).mean(axis=(1, 2))
    squares = squares[clipped < 0.01]
    if len(squares) == 0:
        return np.empty((0, PATCH, PATCH, 3), np.float32), np.empty((0, 3), np.float32)
    basis = _surface_basis()
    residual = squares - squares @ basis @ basis.T
    order = np.argsort((residual.mean(axis=1) ** 2).mean(axis=1))
    chosen = order[:count]
    return (residual[chosen].transpose(0, 2, 1).reshape(-1, PATCH, PATCH, 3), squares[chosen].mean(axis=2))


def _surface_basis() -> np.ndarray:
    """(1024, 6), orthonormal: 1, x, y, xx, xy, yy."""
    y, x = np.mgrid[-1:1:PATCH * 1j, -1:1:PATCH * 1j].reshape(2, -1)
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))[0].astype(np.float32)


def _autocorrelation(residual: np.ndarray) -> np.ndarray:
    """(n, 32, 32) -> (17, 17): the median over squares of each one's own, which the few with texture do not move."""
    weighed = residual / np.maximum(residual.std(axis=(1, 2), keepdims=True), 1e-6)
    size = 2 * MAX_LAG + 1
    result = np.empty((size, size))
    for row in range(MAX_LAG + 1):
        for column in range(-MAX_LAG, MAX_LAG + 1):
            first = weighed[:, row:, max(column, 0):PATCH + min(column, 0)]
            second = weighed[:, :PATCH - row, max(-column, 0):PATCH - max(column, 0)]
            value = float(np.median((first * second).mean(axis=(1, 2))))
            result[MAX_LAG + row, MAX_LAG + column] = result[MAX_LAG - row, MAX_LAG - column] = value
    rows, columns = np.abs(np.indices((size, size)) - MAX_LAG)
    floor = result[np.maximum(rows, columns) >= MAX_LAG - 1].mean()
    return (result - floor) / max(result[MAX_LAG, MAX_LAG] - floor, 1e-12)


def _levels(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(n, 2): intensity and median sigma of each of 16 bins that holds ten squares or more."""
    bins = np.clip((mean * (_BINS / 256)).astype(int), 0, _BINS - 1)
    rows = [(mean[bins == number].mean(), np.sqrt(np.median(variance[bins == number])))
            for number in range(_BINS) if (bins == number).sum() >= 10]
    return np.array(rows).reshape(-1, 2)


def _fitted_line(points: np.ndarray) -> tuple[float, float]:
    if len(points) < 2:
        return 0., float((points[:, 1] ** 2).mean()) if len(points) else 0.
    slope, offset = np.polyfit(points[:, 0], points[:, 1] ** 2, 1)
    return float(slope), float(offset)
