"""Sigma of the noise at every pixel of one photograph, measured in the photograph itself, textured areas included."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
from scipy import stats

from basicsr_sassid.noise.estimate import PATCH
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import noise_gain, sigma_of_channels
from basicsr_sassid.noise.spectrum import (
    OPPONENT,
    block_power,
    grey_correlation,
    opponent_correlation,
    rgb_correlation,
    scale_covariances,
)
from basicsr_sassid.ops.arrays import white_level
from basicsr_sassid.ops.block_dct import dct_matrix
from basicsr_sassid.utils.sequences import evenly_spaced

_STEP = PATCH // 2  # pixels between patches
_BATCH = 1024  # patches that are measured at a time
_LOWEST = 3  # sum of a coefficient's two frequencies: below are light and shade
_LOCAL = 0.6  # exponent of sigma's change within a photograph: a single patch is uncertain
_LEAST = 0.05  # grey levels
_COLOUR_PATCHES = 1024  # in which colour differences are measured, evenly spaced
_LEAST_POWER = 0.25  # of a measured coefficient, as a fraction of the noise's mean power
_LEAST_COEFFICIENTS = 32
_MEDIAN = float(stats.chi2.ppf(0.5, 1))  # of the square of a normal variable with variance 1
_ROWS, _COLUMNS = np.indices((PATCH, PATCH))
# a quarter of the coefficients are enough for a median; blurred noise has power in fewer, see _measured_power
_MEASURED = np.flatnonzero((_ROWS + _COLUMNS >= _LOWEST) & ((_ROWS + _COLUMNS) % 4 == 0))


@dataclasses.dataclass(frozen=True)
class LocalSigma:
    """Noise of one photograph, as :func:`measure_local_sigma` finds it.

    Attributes:
        sigma: (h, w, C), grey levels, at the centres of patches that lie 16 pixels apart; the first centre is the
            photograph's first pixel.
        colour_gain: (C,), sigma of the opponent channels after division by ``sigma``, relative to the noise model: 1
            for luminance, 1 or more for colour differences.
    """

    sigma: np.ndarray
    colour_gain: np.ndarray

    def at(self, rows: slice, columns: slice) -> np.ndarray:
        """(H, W, C) float32: sigma at the pixels of a box of the photograph, which may reach beyond its borders."""
        y, x = (np.arange(box.start, box.stop, dtype=np.float32) / _STEP for box in (rows, columns))
        maps = (np.broadcast_to(x, (len(y), len(x))).copy(), np.repeat(y[:, None], len(x), axis=1))
        result = cv2.remap(self.sigma, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return result.reshape(len(y), len(x), -1)


def measure_local_sigma(pixels: np.ndarray, noise: NoiseModel) -> LocalSigma:
    """Measure the noise's sigma all over a photograph, in flat areas and textured ones.

    Two measurements, both of which texture can only raise; the lower one is taken. One is the model's sigma at the
    intensity of the patch times the noise gain of the photograph, from its flat patches alone. The other comes from
    all 32x32 patches: the median of the squared DCT coefficients of a patch, each divided by the noise's power in it,
    since detail is in few coefficients. It is smoothed over neighbouring patches. Compressed photographs need both: in
    their flat areas the compression has removed part of the noise, and the few flat patches of a rare intensity are
    often its detail. The same median gives the sigma of colour differences, which compression changes on its own.

    Args:
        pixels: (H, W, 1) or (H, W, 3), uint8, uint16 or float in [0, 1], 32 pixels a side or more.
        noise: of photographs of this kind.
    """
    channels = pixels.shape[2]
    white = white_level(pixels.dtype)
    gain = noise_gain(pixels, noise)
    correlation = grey_correlation(noise) if channels == 1 else rgb_correlation(noise)
    measured, power = _measured_power(correlation)
    rows, columns = (range(side // _STEP + 1) for side in pixels.shape[:2])
    # allocated first: small arrays between the large ones of the loop would keep their memory from being used again
    means, sigmas = (np.empty((len(rows), len(columns), channels), np.float32) for _ in range(2))
    step = max(_BATCH // len(columns), 1)
    for start in range(0, len(rows), step):
        strip = rows[start : start + step]
        patches = _patches(pixels, strip, columns) * (255.0 / white)
        means[start : start + step] = patches.mean(dim=(-1, -2)).numpy()
        sigmas[start : start + step] = _median_sigma(_coefficients(patches, measured), power).numpy()
    logarithm = np.log(sigmas.clip(_LEAST))
    middle = np.median(logarithm, axis=(0, 1))
    smooth = _as_planes(cv2.GaussianBlur(cv2.medianBlur(logarithm, 3), (0, 0), 1), channels)
    logarithm = middle + _LOCAL * (smooth - middle)
    flat = np.log(sigma_of_channels(noise, means, gain).clip(_LEAST))
    logarithm = np.minimum(logarithm, _as_planes(cv2.GaussianBlur(flat, (0, 0), 1), channels))
    sigma = np.exp(logarithm).astype(np.float32)
    colour_gain = np.ones(1) if channels == 1 else _colour_gain(pixels, sigma * np.float32(white / 255), noise)
    return LocalSigma(sigma, colour_gain.astype(np.float32))


def _colour_gain(pixels: np.ndarray, sigma: np.ndarray, noise: NoiseModel) -> np.ndarray:
    """(3,): the median over patches of the sigma of colour differences, if it is above the model's.

    It is never lowered: rounding and compression set most coefficients of weak noise to zero, and the median with them.
    """
    measured, power = _measured_power(opponent_correlation(noise))
    height, width = sigma.shape[:2]
    medians: list[np.ndarray] = []
    for row in evenly_spaced(range(height), max(_COLOUR_PATCHES // width, 1)):
        patches = _patches(pixels, range(row, row + 1), range(width))[0]
        scaled = patches / torch.from_numpy(sigma[row])[..., None, None]
        opponent = (torch.from_numpy(OPPONENT) @ scaled.flatten(2)).view_as(scaled)
        medians.append(_median_sigma(_coefficients(opponent, measured), power).numpy())
    gain = np.maximum(np.median(np.concatenate(medians), axis=0), 1)
    gain[0] = 1  # texture is in the luminance
    return gain


def _measured_power(correlation: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(M,), (C, M): indices of the coefficients that are measured, and the variance in them of noise of variance 1.

    Coefficients in which blurred noise has little power are left out, since the measured correlation does not predict
    it there: sigma of noise blurred by 1.5 pixels would come out at half of its value.
    """
    power = block_power(scale_covariances(correlation, 1)[0], PATCH)
    power = torch.from_numpy(power.swapaxes(1, 2).reshape(len(power), -1)[:, _MEASURED])
    mean = power.mean(dim=0)
    kept = mean >= min(_LEAST_POWER, float(mean.topk(_LEAST_COEFFICIENTS).values[-1]))
    return torch.from_numpy(_MEASURED)[kept], power[:, kept]


def _patches(pixels: np.ndarray, rows: range, columns: range) -> torch.Tensor:
    """(rows, columns, C, 32, 32) float32: patches 16 pixels apart around (16 row, 16 column), reflected at borders."""
    inside = [
        np.pad(np.arange(side), _STEP, 'reflect')[_STEP * places[0] : _STEP * (places[-1] + 2)]
        for side, places in zip(pixels.shape[:2], (rows, columns))
    ]
    box = torch.from_numpy(pixels[inside[0][:, None], inside[1]].astype(np.float32))
    return box.unfold(0, PATCH, _STEP).unfold(1, PATCH, _STEP)


def _coefficients(patches: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """(..., 32, 32) -> (..., M): the DCT coefficients with the indices ``measured``, (M,)."""
    basis = dct_matrix(PATCH).T
    across = (patches.reshape(-1, PATCH) @ basis).view(-1, PATCH, PATCH)
    both = (across.transpose(1, 2).reshape(-1, PATCH) @ basis).view(-1, PATCH**2)  # (columns, rows) of frequencies
    return both.index_select(1, measured).view(*patches.shape[:-2], -1)


def _median_sigma(coefficients: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """(..., C, M) -> (..., C)."""
    return (coefficients.square().div_(power).median(dim=-1).values / _MEDIAN).sqrt_()


def _as_planes(image: np.ndarray, channels: int) -> np.ndarray:
    """OpenCV drops a single channel."""
    return image.reshape(*image.shape[:2], channels)
