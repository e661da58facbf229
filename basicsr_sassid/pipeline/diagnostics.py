"""What can go wrong in training without clean images, seen in noisy data alone, and said in plain words."""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from basicsr_sassid.noise.estimate import PATCH
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import sigma_map

IDENTITY = 0.5  # of the noise's standard deviation: what the removed part has at least, in flat areas
COLOUR_SHIFT = 1.5  # grey levels: what the mean of a channel may move
_NAMES = {'bnn': 'The blind network', 'result': 'The result'}
OVER_SMOOTHING = 2.  # times the noise's variance: what the removed part has at most, in textured areas


@dataclasses.dataclass
class Finding:
    """Something that a user should know.

    Attributes:
        stage: ``bnn``, or ``result``: what is written in the end.
        kind: ``identity``, ``colour`` or ``smooth``.
        text: what was seen, in plain words.
        answer: what was done about it, or what the user can do.
    """
    stage: str
    kind: str
    text: str
    answer: str


def diagnose(stage: str, denoise: Callable[[np.ndarray], np.ndarray], crops: Sequence[np.ndarray], noise: NoiseModel
                 ) -> list[Finding]:
    """Look at what a denoiser removes from noisy crops, (H, W, 3) float32 in [0, 1], of known noise."""
    flat, textured, shifts = [], [], []
    for crop in crops:
        result = denoise(crop)
        removed = (crop - result) * 255
        expected = sigma_map(crop, noise) ** 2
        detail, removed_power, expected_power = (_squares(plane.mean(axis=2)) for plane in (
            (result * 255 - cv2.GaussianBlur(result * 255, (0, 0), 3)) ** 2, removed ** 2, expected))
        order = np.argsort(detail)
        fifth = max(len(order) // 5, 1)
        flat.append(removed_power[order[:fifth]].mean() / max(expected_power[order[:fifth]].mean(), 1e-6))
        textured.append(removed_power[order[-fifth:]].mean() / max(expected_power[order[-fifth:]].mean(), 1e-6))
        inside = ((crop > 0.01) & (crop < 0.99)).all(axis=2)  # where the noise is cut off, its mean is not zero
        if inside.mean() > 0.5:
            shifts.append(removed[inside].mean(axis=0))
    return [*_identity(stage, float(np.sqrt(np.median(flat)))), *_smooth(stage, float(np.median(textured))),
            *(_colour(stage, np.median(shifts, axis=0)) if shifts else [])]


def _squares(plane: np.ndarray) -> np.ndarray:
    """The means of all squares of 32x32 pixels."""
    side = PATCH if min(plane.shape) >= PATCH else 1
    height, width = (length // side for length in plane.shape)
    return plane[:height * side, :width * side].reshape(height, side, width, side).mean(axis=(1, 3)).ravel()


def _identity(stage: str, ratio: float) -> list[Finding]:
    if ratio >= IDENTITY:
        return []
    return [Finding(stage, 'identity', f'{_NAMES[stage]} repeats its input; in flat areas it removes {ratio:.0%} of '
                    'the noise\'s standard deviation. What the blind square leaves visible tells it the noise.',
                    'use a larger --blind-size')]


def _smooth(stage: str, ratio: float) -> list[Finding]:
    if ratio <= OVER_SMOOTHING:
        return []
    return [Finding(stage, 'smooth', f'{_NAMES[stage]}: detail is removed with the noise; in textured areas what goes '
                    f'has {ratio:.1f} times the noise\'s power.', 'train longer (--effort best), or lower --strength')]


def _colour(stage: str, shift: np.ndarray) -> list[Finding]:
    if np.abs(shift).max() <= COLOUR_SHIFT:
        return []
    worst = int(np.abs(shift).argmax())
    return [Finding(stage, 'colour', f'{_NAMES[stage]}: {("red", "green", "blue")[worst]} moved by '
                    f'{-shift[worst]:+.1f} grey levels.',
                    'the colour of large areas was taken back from the photographs')]
