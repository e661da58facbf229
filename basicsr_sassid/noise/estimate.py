"""What the noise of photographs is like, from the noisy photographs alone: its level, and how far it is correlated."""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.ops.arrays import is_grey
from basicsr_sassid.utils.errors import UserError

PATCH = 32  # side of the squares in which noise is looked for
_FLATTEST = 0.2  # share of an image's squares, and of those of one intensity
_SMOOTHEST = 0.03  # share of an image's squares that are flat for certain
_MOST_SQUARES = 4000  # looked at in an image, evenly spaced
_MOST_FLAT = 400  # kept of an image
_MOST_CORRELATED = 6000  # squares whose correlation is computed, evenly spaced
_CLIPPED = (0.01, 0.1)  # share of an image's pixels at black or white: as few as can be had
_SATURATED = 0.5  # the share that leaves no noise to measure
_BINS = 16
_LAGS = 2 * MAX_LAG + 1


def estimate_noise(images: Iterable[np.ndarray]) -> NoiseModel:
    """Measure the noise of photographs that were taken and processed alike, without clean versions.

    In each image the 32x32 squares with the least variance are taken for flat (at most a fifth, clipped ones aside).
    What a quadratic surface leaves of them is noise. The surface takes some of the noise with it, which lowers the
    autocorrelation by a constant; it is brought back by letting it end at zero, 7 and 8 pixels away. The level at an
    intensity is that of the flattest fifth of the squares of this intensity.

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
    return pool_patches(find_flat_patches(image) for image in images)


@dataclasses.dataclass(frozen=True)
class FlatPatches:
    """The flat squares of one image.

    Attributes:
        residual: (n, 32, 32, 3), the flattest fifth without their surfaces, in grey levels.
        means, variances: (m, 3), of the flattest fifth of each intensity, in grey levels; NaN where it is saturated.
    """
    residual: np.ndarray
    means: np.ndarray
    variances: np.ndarray

    @property
    def is_grey(self) -> bool:
        """Whether the image is grey."""
        return is_grey(self.residual)


def find_flat_patches(image: np.ndarray) -> FlatPatches:
    """Where the noise of one image shows. Raises UserError for a shape that :func:`estimate_noise` does not take."""
    pixels = _as_grey_levels(image)
    step = max(PATCH // 2, math.ceil(math.sqrt(pixels.shape[0] * pixels.shape[1] / _MOST_SQUARES)))
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (PATCH, PATCH), axis=(0, 1))[::step, ::step]
    squares = windows.reshape(-1, 3, PATCH * PATCH)
    count = max(int(_FLATTEST * len(squares)), 1)
    clipped = ((squares <= 1) | (squares >= 254)).mean(axis=2)
    usable = np.median(clipped, axis=1) < _SATURATED
    squares, clipped = squares[usable], clipped[usable]
    if len(squares) == 0:
        return FlatPatches(np.empty((0, PATCH, PATCH, 3), np.float32), *np.empty((2, 0, 3), np.float32))
    basis = _surface_basis()
    single = basis.astype(np.float32)
    residual = squares - squares @ single @ single.T
    if is_grey(pixels):  # a product may round equal rows apart (OpenBLAS's kernel for Prescott does)
        residual[:] = residual[:, :1]
    mean = squares.mean(axis=1, dtype=np.float64)
    # of the channels' mean: where detail shows most. In double precision: many squares are nearly as flat as the next
    # one, and which of them are kept must not turn on how a processor's float32 product rounds
    roughness = ((mean - mean @ basis @ basis.T) ** 2).mean(axis=1)
    # clipping cuts the noise: such squares are for dark photographs, which have no others
    tier = np.searchsorted(_CLIPPED, clipped.mean(axis=1), 'right')
    flattest = np.lexsort((roughness, tier))[:count]
    flattest = flattest[tier[flattest] == tier[flattest[0]]]
    smooth = roughness[flattest[int(_SMOOTHEST / _FLATTEST * len(flattest))]]
    flattest = flattest[roughness[flattest] <= 1.5 * smooth]  # as pure noise is alike, and texture is not
    flattest = flattest[::math.ceil(len(flattest) / _MOST_FLAT)]
    means = squares.mean(axis=2)
    variances = np.where(clipped < _SATURATED, residual.var(axis=2), np.nan)
    bins = _bins(means.mean(axis=1))
    alike = [np.flatnonzero(bins == number) for number in range(_BINS)]
    levels = np.concatenate([group[np.argsort(roughness[group])[:math.ceil(_FLATTEST * len(group))]]
                             for group in alike if len(group) >= 5] or [flattest])
    return FlatPatches(residual[flattest].transpose(0, 2, 1).reshape(-1, PATCH, PATCH, 3), means[levels],
                       variances[levels])


def pool_patches(parts: Iterable[FlatPatches]) -> NoiseModel:
    """The noise of all images together. Raises UserError if there is no square."""
    parts = list(parts)
    residual = np.concatenate([part.residual for part in parts]) if parts else np.empty(0)
    if len(residual) == 0:
        raise UserError('noise: no square of 32x32 pixels that is not black or white; there is nothing to measure. '
                        'Give other photographs.')
    sigma = np.sqrt(residual.var(axis=(1, 2)).mean(axis=0))
    levels = {name: _levels([part.means[:, channel] for part in parts], [part.variances[:, channel] for part in parts])
              for channel, name in enumerate('RGB')}
    lines = {name: _fitted_line(points) for name, points in levels.items()}
    correlation = _correlations(_some(residual))[0]
    colour = [part.residual for part in parts if not part.is_grey]
    # grey photographs say nothing of how channels go together
    joint = _correlations(_some(np.concatenate(colour)))[1] if colour else np.tile(correlation, (3, 3, 1, 1))
    return NoiseModel(sigma, correlation, joint, levels, lines, len(residual))


def _some(residual: np.ndarray) -> np.ndarray:
    return residual[::math.ceil(len(residual) / _MOST_CORRELATED)]


def _as_grey_levels(image: np.ndarray) -> np.ndarray:
    pixels = np.asarray(image)
    if pixels.ndim == 2 or pixels.shape[2:] == (1,):
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < PATCH:
        raise UserError(f'noise: expected images of shape (H, W) or (H, W, 3), {PATCH} pixels a side or more, got '
                        f'{np.shape(image)}')
    white = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1.
    return pixels.astype(np.float32) * (255. / white)


def _surface_basis() -> np.ndarray:
    """(1024, 6), float64, orthonormal: 1, x, y, xx, xy, yy."""
    y, x = np.mgrid[-1:1:PATCH * 1j, -1:1:PATCH * 1j].reshape(2, -1)
    return np.linalg.qr(np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1))[0]


def _correlations(residual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 32, 32, 3) -> (17, 17) of the channels together, (3, 3, 17, 17) of each pair.

    Medians over the squares, each weighed to variance 1: the few with texture do not move them.
    """
    weighed = (residual / np.maximum(residual.std(axis=(1, 2), keepdims=True), 1e-6)).transpose(0, 3, 1, 2)
    overlap = PATCH - np.abs(np.arange(-MAX_LAG, MAX_LAG + 1))
    products = np.empty((len(weighed), 3, 3, _LAGS, _LAGS), np.float32)
    for start in range(0, len(weighed), 256):
        spectra = np.fft.rfft2(weighed[start:start + 256], (2 * PATCH, 2 * PATCH))  # padded: nothing wraps around
        for c in range(3):
            for d in range(c, 3):
                whole = np.fft.irfft2(spectra[:, c].conj() * spectra[:, d])
                near = np.roll(whole, (MAX_LAG, MAX_LAG), axis=(1, 2))[:, :_LAGS, :_LAGS]
                products[start:start + 256, c, d] = near / np.outer(overlap, overlap)
                products[start:start + 256, d, c] = products[start:start + 256, c, d, ::-1, ::-1]
    own = products[:, range(3), range(3)].reshape(-1, _LAGS, _LAGS)
    joint = np.median(products, axis=0)
    joint = (joint + joint.transpose(1, 0, 2, 3)[..., ::-1, ::-1]) / 2  # the median of an even number may break it
    floors = joint[..., _far()].mean(axis=-1)[..., None, None]
    raised = joint - floors
    scale = np.sqrt(np.maximum(raised[range(3), range(3), MAX_LAG, MAX_LAG], 1e-12))
    return _from_floor(np.median(own, axis=0)), raised / (scale[:, None] * scale)[..., None, None]


def _far() -> np.ndarray:
    rows, columns = np.abs(np.indices((_LAGS, _LAGS)) - MAX_LAG)
    return np.maximum(rows, columns) >= MAX_LAG - 1


def _from_floor(correlation: np.ndarray) -> np.ndarray:
    floor = correlation[_far()].mean()
    return (correlation - floor) / max(correlation[MAX_LAG, MAX_LAG] - floor, 1e-12)


def _bins(intensity: np.ndarray) -> np.ndarray:
    return np.clip((intensity * (_BINS / 256)).astype(int), 0, _BINS - 1)


def _levels(means: list[np.ndarray], variances: list[np.ndarray]) -> np.ndarray:
    """(n, 2): intensity and sigma of each of 16 bins that holds ten squares or more.

    Each image has its own strength (its ISO) on a curve that all share: fitted in turn.
    """
    image = np.repeat(np.arange(len(means)), [len(part) for part in means])
    mean, variance = np.concatenate(means), np.concatenate(variances)
    known = np.isfinite(variance) & (variance > 0)
    image, mean, log = image[known], mean[known], np.log(np.maximum(variance[known], 1e-3))
    bins = _bins(mean)
    curve, strength = np.zeros(_BINS), np.zeros(len(means))
    for _ in range(10):
        strength = _medians(log - curve[bins], image, len(means))
        strength -= np.median(strength[np.unique(image)]) if len(image) else 0.
        curve = _medians(log - strength[image], bins, _BINS)
    rows = [(mean[bins == number].mean(), np.exp(curve[number] / 2)) for number in range(_BINS)
            if (bins == number).sum() >= 10]
    return np.array(rows).reshape(-1, 2)


def _medians(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """(count,): the median of the values of each label; 0 for a label that does not occur."""
    return np.array([np.median(values[labels == label]) if (labels == label).any() else 0. for label in range(count)])


def _fitted_line(points: np.ndarray) -> tuple[float, float]:
    if len(points) < 2:
        return 0., float((points[:, 1] ** 2).mean()) if len(points) else 0.
    slope, offset = np.polyfit(points[:, 0], points[:, 1] ** 2, 1)
    return float(slope), float(offset)
