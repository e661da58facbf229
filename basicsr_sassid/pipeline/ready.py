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
from basicsr_sassid.noise.survey import Survey, survey
from basicsr_sassid.pipeline.blending import blend_crops, fit_blend, read_centre
from basicsr_sassid.pipeline.training_set import require_noise, require_photographs
from basicsr_sassid.utils.errors import printable


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
    require_photographs(found, found.failed)
    noise = require_noise(found, '--weights')
    crops = blend_crops(found.photos, read_centre)
    # without crops no weight can be found, and the student would be used alone
    denoiser = fit_blend(SpectralDenoiser(noise), student if crops else None, crops, noise).denoiser
    share = denoiser.student_weight
    tqdm.write(
        printable(
            f'noise of {noise.describe_sigma()}; blend of {1 - share:.0%} spectral denoiser and {share:.0%} student'
        ),
        file=sys.stderr,
    )
    return denoiser
