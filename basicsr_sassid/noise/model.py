"""NoiseModel: sigma by intensity and correlation of the noise of a set of photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from basicsr_sassid.noise.encoding import encoding_bias
from basicsr_sassid.utils.errors import UserError

MAX_LAG = 8  # pixels
THRESHOLD = 0.035  # correlation below which pixels count as independent
LARGEST_BLIND_SIZE = 2 * MAX_LAG - 1
_LARGEST_RECOMMENDED = 9
_UNCERTAIN = 0.2  # relative error of sigma that is put in words
_FORMAT = 2  # of to_dict
# names of format 1, whose dicts have no key `format`
_OLD_NAMES = {
    'cross_correlation': 'joint',
    'sigma_curve': 'levels',
    'variance_fit': 'lines',
    'num_patches': 'num_squares',
}


@dataclasses.dataclass(frozen=True)
class NoiseModel:
    """Noise of a set of photographs, as :func:`estimate_noise` measures it. All values are in grey levels (0 to 255).

    Attributes:
        sigma: (3,), standard deviation of R, G, B over the flat patches.
        correlation: (17, 17), autocorrelation by (rows, columns) of distance, -8 to 8 pixels, the channels pooled;
            1 at its centre.
        cross_correlation: (3, 3, 17, 17), correlation of channel c at a pixel with channel d at that distance from it.
        sigma_curve: {'R': (n, 2), ...}, for each channel a row (intensity, sigma) for each intensity that occurs.
        variance_fit: {'R': (slope, offset), ...}: variance = slope * intensity + offset, fitted to ``sigma_curve``.
        num_patches: number of flat patches that were measured.
        sigma_error: (3,), standard error of ``sigma``; None in models of earlier versions.
        skewness: 0 to 1, see :func:`skewness_ratio`; 0 in models of earlier versions.
    """

    sigma: np.ndarray
    correlation: np.ndarray
    cross_correlation: np.ndarray
    sigma_curve: dict[str, np.ndarray]
    variance_fit: dict[str, tuple[float, float]]
    num_patches: int
    sigma_error: np.ndarray | None = None
    skewness: float = 0.0

    @property
    def cross_channel(self) -> np.ndarray:
        """(3, 3), correlation between R, G and B at the same pixel."""
        return self.cross_correlation[:, :, MAX_LAG, MAX_LAG]

    def describe_sigma(self) -> str:
        """Mean sigma of the channels and its standard error, as ``9.3 ± 0.5 grey levels``."""
        sigma = self.sigma.mean()
        if self.sigma_error is None:
            return f'{sigma:.1f} grey levels'
        error = self.sigma_error.mean()
        text = f'{sigma:.1f} ± {max(error, 0.1):.1f} grey levels'  # no less than the decimals that are shown
        if error > _UNCERTAIN * sigma:
            text += f' (measured in few flat areas: uncertain by about {10 * round(10 * error / sigma)} %)'
        return text

    def correlation_at(self, radius: int) -> float:
        """Strongest correlation among the pixels on the square ring at ``radius`` (Chebyshev distance)."""
        rows, columns = np.indices(self.correlation.shape) - MAX_LAG
        return float(np.abs(self.correlation[np.maximum(np.abs(rows), np.abs(columns)) == radius]).max())

    def correlation_length(self, threshold: float = THRESHOLD) -> int:
        """Side of the smallest square with all correlation above ``threshold``, odd: 1 for white noise, at most 15."""
        beyond = [radius for radius in range(1, MAX_LAG) if self.correlation_at(radius) > threshold]
        return 2 * max(beyond, default=0) + 1

    def correlation_sides(self, threshold: float = THRESHOLD) -> tuple[int, int]:
        """Height and width of the smallest rectangle with all correlation above ``threshold``: odd, at most 15.

        They differ in camera JPEGs, whose noise is correlated further along rows than along columns.
        """
        inner = self.correlation[1:-1, 1:-1]  # distances below MAX_LAG, as in correlation_length
        # without noise there is no correlation at all
        rows, columns = np.abs(np.argwhere(np.abs(inner) > threshold) - (MAX_LAG - 1)).max(axis=0, initial=0).tolist()
        return 2 * rows + 1, 2 * columns + 1

    def blind_size(self, threshold: float = THRESHOLD) -> int:
        """Recommended ``blind_size`` of the BNN: :meth:`correlation_length`, at most the paper's 9.

        The weak correlation of JPEGs reaches further, but a blind neighbourhood of that size costs more than it saves
        (0.85 dB on PolyU: docs/ablations.md).
        """
        return min(self.correlation_length(threshold), _LARGEST_RECOMMENDED)

    def as_grey(self) -> NoiseModel:
        """The model for images of three equal channels, whose noise is equal too."""
        return dataclasses.replace(self, cross_correlation=np.tile(self.correlation, (3, 3, 1, 1)))

    def sigma_at(self, intensity: np.ndarray) -> np.ndarray:
        """Standard deviation at intensities (..., 3), both in grey levels; constant beyond the measured intensities."""
        columns = [
            np.interp(intensity[..., channel], *self.sigma_curve[name].T)
            if len(self.sigma_curve[name])
            else np.full(intensity.shape[:-1], self.sigma[channel])
            for channel, name in enumerate('RGB')
        ]
        return np.stack(columns, axis=-1).astype(np.float32)

    def encoding_bias(self, intensity: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Grey levels by which the mean of these photographs' noisy pixels is below the clean pixel, see
        :func:`basicsr_sassid.noise.encoding.encoding_bias`; 0 where the noise is not skewed."""
        return np.float32(self.skewness) * encoding_bias(intensity, sigma)

    def to_dict(self) -> dict[str, Any]:
        """The model as values of JSON's types; :meth:`from_dict` reads it."""
        return {
            'format': _FORMAT,
            'sigma': self.sigma.tolist(),
            'correlation': self.correlation.tolist(),
            'cross_correlation': self.cross_correlation.tolist(),
            'sigma_curve': {name: points.tolist() for name, points in self.sigma_curve.items()},
            'variance_fit': {name: list(fit) for name, fit in self.variance_fit.items()},
            'num_patches': self.num_patches,
            'sigma_error': None if self.sigma_error is None else self.sigma_error.tolist(),
            'skewness': self.skewness,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> NoiseModel:
        """Inverse of :meth:`to_dict`; reads format 1 too. Raises UserError for a newer format."""
        number = content.get('format', 1)
        if number not in (1, _FORMAT):
            raise UserError(
                f'noise model: format {number} is newer than this version reads ({_FORMAT}). Upgrade '
                'basicsr_sassid, or measure the noise again.'
            )
        names = _OLD_NAMES if number == 1 else {}

        def field(name: str) -> Any:
            return content[names.get(name, name)]

        sigma_error = content.get('sigma_error')
        return cls(
            np.array(field('sigma')),
            np.array(field('correlation')),
            np.array(field('cross_correlation')),
            {name: np.array(points).reshape(-1, 2) for name, points in field('sigma_curve').items()},
            {name: (fit[0], fit[1]) for name, fit in field('variance_fit').items()},
            field('num_patches'),
            None if sigma_error is None else np.array(sigma_error),
            float(content.get('skewness', 0.0)),
        )
