"""`sassid denoise` without --weights: the spectral denoiser, by the noise of the photographs at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tqdm import tqdm

from basicsr_sassid.inference.files import denoise_targets, plan_writable_outputs
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.noise.survey import survey
from basicsr_sassid.pipeline.blending import blend_crops, fit_blend, read_centre
from basicsr_sassid.pipeline.training_set import require_noise, require_photographs
from basicsr_sassid.utils.device import choose_device


def denoise_photographs(
    inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], device: str = 'cpu'
) -> dict[str, str]:
    """Denoise image files and folders without a network, as :func:`denoise_files` does with one.

    The noise is measured on the photographs together. No weights are in the package: a student of smartphones'
    photographs gained nothing on photographs that it was not trained on (docs/ablations.md).

    Args:
        inputs, output: see :func:`denoise_files`.
        device: of the denoiser, torch's name.

    Returns:
        The files that could not be read, denoised or written, with the reason; all others are written.

    Raises:
        UserError: see :func:`denoise_files`; no photograph can be read; nothing to measure; almost no noise; there is
            no such device.
    """
    choose_device(device)  # raises before the photographs are read
    targets = plan_writable_outputs(inputs, output)
    found = survey(list(targets))
    require_photographs(found, found.failed)
    noise = require_noise(found, '--weights')
    tqdm.write(f'noise of {noise.describe_sigma()}', file=sys.stderr)
    crops = blend_crops(found.photos, read_centre)
    denoiser = fit_blend(SpectralDenoiser(noise, device=device), None, crops, noise).denoiser
    failed = denoise_targets({source: target for source, target in targets.items() if source in found.photos}, denoiser)
    return {**found.failed, **failed}
