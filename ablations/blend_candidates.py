"""Candidates for the weight of a student in its mean with a classical denoiser, from noisy crops alone.

:data:`CANDIDATES` maps a name to a function of the :class:`Terms` of all crops; ``blend_weight.py`` compares them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import cv2
import numpy as np

from basicsr_sassid import Denoiser, NoiseModel, SpectralDenoiser
from basicsr_sassid.inference.blend import coarse_colour_shift
from basicsr_sassid.inference.sure import PROBE_STEP, draw_probe
from basicsr_sassid.noise.local_sigma import measure_local_sigma
from basicsr_sassid.noise.spectrum import OPPONENT
from basicsr_sassid.noise.synthetic import sample_noise
from basicsr_sassid.ops.block_dct import dct_matrix

PATCH = 32  # pixels
TEXTURE = 9  # pixels: side of the square of a local standard deviation
BINS = 4  # of texture


class Remembered:
    """A denoiser that computes each result once."""

    def __init__(self, denoiser: Denoiser | SpectralDenoiser) -> None:
        self.denoiser, self.results = denoiser, {}

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) float32 in [0, 1] to the same."""
        key = hashlib.sha256(image.tobytes()).digest()
        if key not in self.results:
            self.results[key] = self.denoiser.denoise_any_range(image)
        return self.results[key]

    def along(self, image: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Derivative along a direction in grey levels, (H, W, 3), in grey levels."""
        moved = self(image + direction * np.float32(PROBE_STEP / 255))
        return (moved - self(image)) * np.float32(255 / PROBE_STEP)


# ---- what the candidates are given ----


@dataclasses.dataclass(frozen=True)
class Terms:
    """Of one noisy crop. Products are maps, (H, W, 3), in grey levels squared; d: student - classical denoiser.

    Attributes:
        cross: probe -> Stein's estimate of (classical - clean) * d, with the student's colour aligned.
        square: d * d.
        stein: of that the part that follows from the measured noise's probe, the estimate of noise * d.
        raw_cross, raw_square: the same without alignment of colour, for the measured noise's probe.
        variance: of the noise.
        texture: (H, W), local standard deviation of the mean of both results.
        patches: (n, 3), of 32x32 pixels without light and shade: energy of the mean of both results relative to the
            noise's, noisy * d, and Stein's estimate of noise * d.
    """

    cross: dict[str, np.ndarray]
    square: np.ndarray
    stein: np.ndarray
    raw_cross: np.ndarray
    raw_square: np.ndarray
    variance: np.ndarray
    texture: np.ndarray
    patches: np.ndarray


def draw_probes(crop: np.ndarray, noise: NoiseModel, classical: Remembered, seed: int) -> dict[str, np.ndarray]:
    """Name -> (H, W, 3), noise in grey levels: as the set's model, with local sigma, and of resampled residuals."""
    rng = np.random.default_rng((0, seed))
    probe = draw_probe(crop, noise, (0, seed))
    local = measure_local_sigma(crop, noise)
    sigma = local.at(slice(0, crop.shape[0]), slice(0, crop.shape[1]))
    unit = dataclasses.replace(noise, sigma=np.ones(3), sigma_curve={name: np.empty((0, 2)) for name in 'RGB'})
    drawn = sample_noise(unit, np.zeros(crop.shape, np.float32), rng) @ OPPONENT.T * local.colour_gain @ OPPONENT
    residual = (probe.unbiased - 255 * classical(crop)) / sigma
    residual = residual[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
    residual = np.roll(residual, rng.integers(len(crop), size=2).tolist(), axis=(0, 1))
    residual = (residual - residual.mean((0, 1))) / residual.std((0, 1))
    return {
        'measured': probe.direction,
        'local': (drawn * sigma).astype(np.float32),
        'residual': (residual * sigma).astype(np.float32),
    }


def local_texture(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W): standard deviation of the luminance in 9x9 pixels."""
    grey = image.mean(axis=2)
    size = (TEXTURE, TEXTURE)
    return np.sqrt((cv2.blur(grey * grey, size) - cv2.blur(grey, size) ** 2).clip(0))


def high_pass(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (n, M): DCT coefficients of overlapping patches, without the lowest six frequencies."""
    patches = np.lib.stride_tricks.sliding_window_view(image, (PATCH, PATCH), axis=(0, 1))[:: PATCH // 2, :: PATCH // 2]
    basis, (rows, columns) = dct_matrix(PATCH).numpy(), np.indices((PATCH, PATCH))
    return (basis @ patches @ basis.T)[..., rows + columns >= 3].reshape(patches.shape[0] * patches.shape[1], -1)


def measure_terms(crop: np.ndarray, noise: NoiseModel, classical: Remembered, student: Remembered, seed: int) -> Terms:
    """The terms of crop number ``seed``."""
    probe = draw_probe(crop, noise, (0, seed))
    first, second = 255 * classical(crop), 255 * student(crop)
    raw = second - first
    between = raw + coarse_colour_shift(second, first)
    products, derivatives = {}, {}
    for name, direction in draw_probes(crop, noise, classical, seed).items():
        moved = classical.along(crop, direction), student.along(crop, direction)
        derivatives[name] = moved[1] - moved[0]
        aligned = derivatives[name] + coarse_colour_shift(moved[1], moved[0])
        products[name] = direction * aligned
    removed = first - probe.unbiased
    mean, noisy, drawn, difference = (high_pass(x) for x in (first + raw / 2, 255 * crop, probe.direction, between))
    derivative = high_pass(derivatives['measured'])
    energy = (mean**2).mean(axis=1) / (drawn**2).mean(axis=1)
    return Terms(
        {name: removed * between + product for name, product in products.items()},
        between**2,
        products['measured'],
        removed * raw + probe.direction * derivatives['measured'],
        raw**2,
        probe.variance,
        local_texture(first + between / 2),
        np.stack([energy, (noisy * difference).mean(axis=1), (drawn * derivative).mean(axis=1)], axis=1),
    )


# ---- candidates: the terms of all crops -> a weight, or one for each bin of texture ----


def means(maps: list[np.ndarray]) -> np.ndarray:
    """Mean of each crop's map."""
    return np.array([one.mean(dtype=np.float64) for one in maps])


def least_error(cross: float, square: float) -> float:
    """The weight of the student that minimises the estimated error."""
    return float(np.clip(-cross / max(square, 1e-12), 0, 1))


def stein(crops: list[Terms], probe: str = 'measured', errors: float = 0, bias: float = 0) -> float:
    """Stein's estimate with an allowance of standard errors over the crops, less a bias in units of the variance."""
    cross = means([crop.cross[probe] for crop in crops])
    allowance = errors * cross.std(ddof=1) / np.sqrt(len(cross))
    allowance -= bias / 2 * means([crop.variance for crop in crops]).mean()
    return least_error(cross.mean() + allowance, means([crop.square for crop in crops]).mean())


def unaligned(crops: list[Terms]) -> float:
    """Stein's estimate of the student with its own colour."""
    cross, square = (means([getattr(crop, name) for crop in crops]).mean() for name in ('raw_cross', 'raw_square'))
    return least_error(cross, square)


def flat_patches(crops: list[Terms]) -> float:
    """Noise * d is measured in the flattest quarter of the patches; its ratio to Stein's estimate is used in all."""
    patches = np.concatenate([crop.patches for crop in crops])
    flattest = patches[np.argsort(patches[:, 0])[: len(patches) // 4]].sum(axis=0)
    ratio = float(np.clip(flattest[1] / flattest[2], 0, 2)) if flattest[2] else 1.0
    scaled = means([crop.cross['measured'] + (ratio - 1) * crop.stein for crop in crops])
    return least_error(scaled.mean(), means([crop.square for crop in crops]).mean())


def texture_edges(crops: list[Terms]) -> np.ndarray:
    """Quartiles of the local standard deviation."""
    return np.quantile(np.concatenate([crop.texture.ravel() for crop in crops]), np.arange(1, BINS) / BINS)


def by_texture(crops: list[Terms]) -> np.ndarray:
    """Stein's estimate in each quartile of the local standard deviation."""
    edges = texture_edges(crops)
    sums = np.zeros((2, BINS))
    for crop in crops:
        bins = np.digitize(crop.texture, edges).ravel()
        for row, term in zip(sums, (crop.cross['measured'], crop.square)):
            row += np.bincount(bins, term.sum(axis=2).ravel(), BINS)
    return np.array([least_error(cross, square) for cross, square in sums.T])


def lower_quartile(crops: list[Terms]) -> float:
    """The lower quartile of Stein's weights of single crops."""
    cross, square = means([crop.cross['measured'] for crop in crops]), means([crop.square for crop in crops])
    return float(np.clip(np.quantile(-cross / square.clip(1e-12), 0.25), 0, 1))


NOT_ALIGNED = 'Stein, colour not aligned'
SHIPPED = 'Stein + 1 standard error'
CANDIDATES: dict[str, Callable[[list[Terms]], float | np.ndarray]] = {
    'spectral alone': lambda crops: 0.0,
    NOT_ALIGNED: unaligned,
    'Stein': stein,
    'Stein - 0.05 v': lambda crops: stein(crops, bias=0.05),
    'Stein - 0.4 v': lambda crops: stein(crops, bias=0.4),
    'probe of the local sigma': lambda crops: stein(crops, 'local'),
    'least of two probes': lambda crops: min(stein(crops), stein(crops, 'residual')),
    'measured in flat patches': flat_patches,
    'a weight per texture': by_texture,
    'lower quartile of crops': lower_quartile,
    'Stein + 0.5 standard errors': lambda crops: stein(crops, errors=0.5),
    SHIPPED: lambda crops: stein(crops, errors=1),
    'Stein + 2 standard errors': lambda crops: stein(crops, errors=2),
}
