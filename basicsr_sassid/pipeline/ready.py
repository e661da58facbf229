"""`sassid denoise` without --weights: the blend of the spectral denoiser and the student in the package."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from basicsr_sassid.inference.blend import BlendedDenoiser
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.files import denoise_targets, plan_writable_outputs
from basicsr_sassid.inference.ready import READY_WEIGHTS
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.noise.estimate import PATCH
from basicsr_sassid.noise.survey import LITTLE, Survey, survey
from basicsr_sassid.pipeline.blending import blend_crops, fit_blend, read_centre
from basicsr_sassid.utils.errors import UserError, printable
from basicsr_sassid.utils.sequences import count_noun


def denoise_photographs(
    inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], **settings: Any
) -> dict[str, str]:
    """Denoise image files and folders without a training, as :func:`denoise_files` does with weights.

    The noise is measured on the photographs together; the spectral denoiser removes it by that measurement, and the
    student in the package joins it with the weight of the least estimated error, 0 where it does not suit them.

    Args:
        inputs, output: see :func:`denoise_files`.
        settings: of the student's :class:`Denoiser`: ``device``, ``tile`` ...

    Returns:
        The files that could not be read, denoised or written, with the reason; all others are written.

    Raises:
        UserError: see :func:`denoise_files`; no photograph can be read; nothing to measure; almost no noise.
    """
    targets = plan_writable_outputs(inputs, output)
    student = Denoiser(READY_WEIGHTS, **settings)
    found = survey(list(targets))
    denoiser = _fit(found, student)
    failed = denoise_targets({source: target for source, target in targets.items() if source in found.photos}, denoiser)
    return {**found.failed, **failed}


def _fit(found: Survey, student: Denoiser) -> BlendedDenoiser:
    noise = found.noise
    if not found.photos:
        raise UserError('none of the photographs can be read:' + ''.join(f'\n{text}' for text in found.failed.values()))
    if noise is None:
        raise UserError(
            f'{count_noun(len(found.photos), "photograph")}, and no patch of {PATCH}x{PATCH} pixels in them that is '
            'neither black nor white: the noise cannot be measured. Give larger ones, or --weights.'
        )
    if noise.sigma.max() < LITTLE:
        raise UserError(
            f'almost no noise found: its standard deviation is {noise.sigma.max():.2f} of 255 grey levels. Denoising '
            'would only remove detail; nothing was written. To denoise all the same, give --weights.'
        )
    denoiser = fit_blend(SpectralDenoiser(noise), student, blend_crops(found.photos, read_centre), noise).denoiser
    share = denoiser.student_weight
    tqdm.write(
        printable(
            f'noise of {noise.describe_sigma()}; blend of {1 - share:.0%} spectral denoiser and {share:.0%} student'
        ),
        file=sys.stderr,
    )
    return denoiser
