"""How the student and the spectral denoiser are blended: by noisy images alone."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from basicsr_sassid.inference.blend import BlendedDenoiser, Denoise
from basicsr_sassid.inference.sure import optimal_blend_weight
from basicsr_sassid.io.photo import Photo, read_photo
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.ops.arrays import centre_crop
from basicsr_sassid.pipeline.diagnostics import Finding, diagnose
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import evenly_spaced

Key = TypeVar('Key')
MOST_CROPS = 8
CROP = 256  # pixels a side of a crop
FIT_PASSES = 3  # of a denoiser over the crops: as they are, with the probe of the risk estimate, for the diagnosis
LEAST_SIDE = 128  # pixels: smaller images are neither cropped nor trained on


@dataclasses.dataclass(frozen=True)
class FittedBlend:
    """Result of :func:`fit_blend`.

    Attributes:
        denoiser: the blend at full strength.
        risks: estimated mean squared errors in grey levels squared: ``noisy``, ``classical``, ``student``, ``blend``;
            empty where nothing was compared.
        findings: problems of the blend.
    """

    denoiser: BlendedDenoiser
    risks: dict[str, float]
    findings: list[Finding]


def blend_crops(sizes: Mapping[Key, tuple[int, int]], read: Callable[[Key], np.ndarray]) -> list[np.ndarray]:
    """The crops that a blend is fitted to: of at most 8 images, evenly spaced among those of at least 128x128 pixels.

    Args:
        sizes: image -> (height, width) in pixels.
        read: image -> (H, W, 3) float32 in [0, 1], the whole image or its central part of at least 256x256 pixels.
            Images for which it raises UserError are skipped.

    Returns:
        The central squares, (H, W, 3) float32 in [0, 1], at most 256 pixels a side.
    """
    crops = []
    for key in evenly_spaced([key for key, size in sizes.items() if min(size) >= LEAST_SIDE], MOST_CROPS):
        with contextlib.suppress(UserError):
            crops.append(centre_crop(read(key), CROP))
    return crops


def read_centre(path: Path) -> np.ndarray:
    """The central crop of a photograph, (H, W, 3) float32 in [0, 1]. Raises UserError if the file is damaged."""
    return Photo(centre_crop(read_photo(path).pixels, CROP)).as_rgb_float()


def fit_blend(
    classical: Denoise | None, student: Denoise | None, crops: Sequence[np.ndarray], noise: NoiseModel | None
) -> FittedBlend:
    """Blend two denoisers with the weight of the least estimated error on noisy crops, and diagnose the result.

    Args:
        classical: the denoiser without training, (H, W, C) to the same; None leaves the student alone.
        student: the trained denoiser; None leaves the classical one alone.
        crops: noisy, (H, W, 3) float32 in [0, 1], as :func:`blend_crops` returns them. Without crops the student alone
            is used where there is one.
        noise: of the crops; None disables the diagnostics.

    Returns:
        The blend. It keeps the colour of large areas of its input where the diagnostics found a colour shift.
    """
    weight, risks = float(student is not None), {}
    if classical is not None and student is not None and noise is not None and crops:
        weight, risks = optimal_blend_weight(classical, student, crops, noise)
    is_fitted = bool(risks)  # else one of them is alone
    denoiser = BlendedDenoiser(
        classical if weight < 1 or is_fitted else None,
        student if weight > 0 else None,
        weight,
        align_colour=is_fitted and weight > 0,
    )
    findings = diagnose('result', denoiser, crops, noise) if noise is not None else []
    keep_colour = any(finding.kind == 'colour' for finding in findings)
    return FittedBlend(dataclasses.replace(denoiser, keep_colour=keep_colour), risks, findings)
