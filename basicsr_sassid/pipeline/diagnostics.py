"""Failures of training without clean images, detected from noisy data alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from basicsr_sassid.noise.estimate import PATCH, saturation_levels
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import sigma_map
from basicsr_sassid.pipeline.options import EFFORTS

LEAST_REMOVED = 0.5  # of the noise's standard deviation, removed in flat areas: below it a network copies its input
MOST_REMOVED = 2.0  # times the noise's variance, removed in textured areas: above it detail is removed
COLOUR_SHIFT = 1.5  # grey levels, of the mean of a channel
_UNCLIPPED, _MOST_CLIPPED = 0.01, 0.1  # fraction of an area's pixels
_LEAST_AREAS = 0.5  # of a crop's areas, for its colour
_NAMES = {'bnn': 'The BNN', 'result': 'The result'}


@dataclasses.dataclass
class Finding:
    """One problem that :func:`diagnose` detected.

    Attributes:
        stage: ``bnn``, or ``result``: the blend that is written.
        kind: ``identity``, ``colour`` or ``smooth``.
        text: the observation, as a sentence.
        action: what was done about it, or what the user can do.
    """

    stage: str
    kind: str
    text: str
    action: str

    def to_dict(self) -> dict[str, str]:
        """The finding as values that JSON has."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Finding:
        """Inverse of :meth:`to_dict`; reads format 1 too, where ``action`` was called ``answer``."""
        action = content['action'] if 'action' in content else content['answer']
        return cls(content['stage'], content['kind'], content['text'], action)


@dataclasses.dataclass(frozen=True)
class _Removal:
    """What a denoiser removes from one crop.

    Attributes:
        flat, textured: variance of the removed part, as a multiple of the noise's, in flat and in textured areas.
            Clipped areas, where there is less noise, count for neither; NaN where there are no others.
        shift: (3,), mean of the removed part in grey levels; None where nearly all areas are clipped.
    """

    flat: float
    textured: float
    shift: np.ndarray | None


def diagnose(
    stage: str, denoise: Callable[[np.ndarray], np.ndarray], crops: Sequence[np.ndarray], noise: NoiseModel
) -> list[Finding]:
    """Compare the part that a denoiser removes from noisy crops with their noise.

    Args:
        stage: ``bnn`` or ``result``, for the findings.
        denoise: (H, W, 3) float32 in [0, 1] to the same.
        crops: noisy, (H, W, 3) float32 in [0, 1].
        noise: of the crops.

    Returns:
        The problems, none if there are no crops.
    """
    if not crops:
        return []
    removals = [_measure_removal(crop, denoise(crop), noise) for crop in crops]
    shifts = [removal.shift for removal in removals if removal.shift is not None]
    removals = [removal for removal in removals if np.isfinite(removal.flat)]
    if not removals:
        return []
    return [
        *_check_identity(stage, float(np.sqrt(np.median([removal.flat for removal in removals])))),
        *_check_smoothing(stage, float(np.median([removal.textured for removal in removals]))),
        *(_check_colour(stage, np.median(shifts, axis=0)) if shifts else []),
    ]


def advice(kind: str, minutes: float, has_weights: bool) -> str:
    """What the user can do about a finding about the result.

    Args:
        kind: of the finding.
        minutes: of training in this run.
        has_weights: whether the run was given the weights of another one.
    """
    if kind == 'colour':
        return 'the colour of large areas was taken from the photographs'
    lower = 'lower --strength' if kind == 'smooth' else 'give more photographs of this camera'
    if has_weights:
        return f'train on these photographs (leave out --weights), or {lower}'
    if minutes == 0:
        return f'train on these photographs (--effort quick), or {lower}'
    if minutes < EFFORTS['best']:
        return f'train longer (--effort best), or {lower if kind == "smooth" else "use a larger --blind-size"}'
    return lower if kind == 'smooth' else 'use a larger --blind-size'


def _measure_removal(crop: np.ndarray, result: np.ndarray, noise: NoiseModel) -> _Removal:
    removed = (crop - result) * 255
    sigma = sigma_map(crop, noise)
    expected = sigma**2
    high_pass = (result * 255 - cv2.GaussianBlur(result * 255, (0, 0), 3)) ** 2
    detail, removed_power, expected_power = (
        _patch_means(plane.mean(axis=2)) for plane in (high_pass, removed**2, expected)
    )
    # areas, not pixels: the unclipped pixels of an area are those whose noise points away from the end of the range
    clipped = _patch_means(_is_clipped(crop * np.float32(255)))
    order = np.argsort(detail)
    order = order[clipped[order] <= _MOST_CLIPPED]
    fifth = max(len(order) // 5, 1)

    def ratio(patches: np.ndarray) -> float:
        return removed_power[patches].mean() / max(expected_power[patches].mean(), 1e-6) if len(patches) else math.nan

    unclipped = clipped <= _UNCLIPPED  # the mean of clipped noise is not zero
    shift = None
    if unclipped.sum() >= _LEAST_AREAS * len(clipped):
        # a denoiser may brighten by what gamma encoding has darkened, or not
        brightened = removed + noise.encoding_bias(result * np.float32(255), sigma)
        shift = _common_part(_shift(removed, unclipped), _shift(brightened, unclipped))
    return _Removal(ratio(order[:fifth]), ratio(order[-fifth:]), shift)


def _shift(removed: np.ndarray, unclipped: np.ndarray) -> np.ndarray:
    """(3,): the mean that unclipped areas and all areas have in common. A blur across their border moves the unclipped
    areas alone."""
    areas = np.stack([_patch_means(removed[..., channel]) for channel in range(3)])
    return _common_part(areas[:, unclipped].mean(axis=1), areas.mean(axis=1))


def _common_part(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(first * second > 0, np.sign(second) * np.minimum(np.abs(first), np.abs(second)), 0.0)


def _is_clipped(grey_levels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W): 1.0 where a channel is saturated."""
    black, white = saturation_levels(grey_levels)
    return ((grey_levels <= black[:, 0]) | (grey_levels >= white[:, 0])).any(axis=2).astype(float)


def _patch_means(plane: np.ndarray) -> np.ndarray:
    """Means of all patches of 32x32 pixels of (H, W)."""
    side = PATCH if min(plane.shape) >= PATCH else 1
    height, width = (length // side for length in plane.shape)
    return plane[: height * side, : width * side].reshape(height, side, width, side).mean(axis=(1, 3)).ravel()


def _check_identity(stage: str, ratio: float) -> list[Finding]:
    if ratio >= LEAST_REMOVED:
        return []
    return [
        Finding(
            stage,
            'identity',
            f'{_NAMES[stage]} {"copies its input" if stage == "bnn" else "keeps noise"}: in flat areas it removes '
            f"{ratio:.0%} of the noise's standard deviation."
            + (' The noise is correlated beyond the blind neighbourhood.' if stage == 'bnn' else ''),
            'use a larger --blind-size',
        )
    ]


def _check_smoothing(stage: str, ratio: float) -> list[Finding]:
    if ratio <= MOST_REMOVED:
        return []
    return [
        Finding(
            stage,
            'smooth',
            f'{_NAMES[stage]} lacks detail: in textured areas the removed part has '
            f"{ratio:.1f} times the noise's variance.",
            'train longer (--effort best), or lower --strength',
        )
    ]


def _check_colour(stage: str, shift: np.ndarray) -> list[Finding]:
    if np.abs(shift).max() <= COLOUR_SHIFT:
        return []
    worst = int(np.abs(shift).argmax())
    return [
        Finding(
            stage,
            'colour',
            f'{_NAMES[stage]} has a colour shift: {("red", "green", "blue")[worst]} moved by '
            f'{-shift[worst]:+.1f} grey levels.',
            'the colour of large areas was taken from the photographs',
        )
    ]
