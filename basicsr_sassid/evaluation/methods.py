"""The methods of an evaluation, by type: ours, any network of the registry, classical ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from basicsr_sassid.evaluation import classical_methods as classical
from basicsr_sassid.evaluation.context import Method, MethodContext, MethodType
from basicsr_sassid.evaluation.schema import (
    BlendOptions,
    BM3DOptions,
    DenoiserOptions,
    GaussianOptions,
    MethodOptions,
    NetworkOptions,
    NoisyOptions,
    OpenCVNLMOptions,
    SkimageNLMOptions,
    SkimageTVOptions,
    SkimageWaveletOptions,
    SpectralOptions,
)
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.io.checkpoint import read_weights
from basicsr_sassid.pipeline.blending import blend_crops, fit_blend
from basicsr_sassid.utils.errors import UserError


def build_method(options: MethodOptions, context: MethodContext) -> Method:
    """Build the method of an option block. Raises UserError; for a missing library it names the pip command."""
    return METHODS[options.type].build(options, context)


def denoiser(options: DenoiserOptions, context: MethodContext) -> Method:
    """Any network, from a file or a training."""
    weights = _weights(options, context)
    arguments = {'network': _trained_network(options, weights), **options.denoiser_arguments()}
    denoise = Denoiser(weights, context.device, **arguments)
    return Method(denoise, denoise.net)


def spectral(options: SpectralOptions, context: MethodContext) -> Method:
    """The spectral denoiser, with the noise of the dataset's noisy images."""
    return Method(SpectralDenoiser(context.noise, **options.model_dump(exclude_unset=True, exclude={'type'})))


def blend(options: BlendOptions, context: MethodContext) -> Method:
    """The student and the spectral denoiser, blended as `sassid clean` blends them: from the noisy images alone."""
    weights = _weights(options, context)
    student = Denoiser(weights, context.device, network=_trained_network(options, weights))
    return build_blend(student, context)


def build_blend(student: Denoiser, context: MethodContext) -> Method:
    """The blend of a student with the spectral denoiser, by the noisy images of ``context``."""
    images = [noisy for noisy, _ in context.pairs]
    crops = blend_crops(
        {index: image.shape[:2] for index, image in enumerate(images)},
        lambda index: images[index].astype(np.float32) / 255,
    )
    fitted = fit_blend(SpectralDenoiser(context.noise), student, crops, context.noise)
    return Method(fitted.denoiser, student.net, f'{fitted.denoiser.student_weight:.0%} student')


def _weights(options: NetworkOptions, context: MethodContext) -> str | Path:
    if options.weights is not None:
        return options.weights
    if context.weights_of is None or options.training is None:
        raise UserError(f'{options.type}: expected weights, nothing is trained here')
    return context.weights_of(options.training, options.net)


def _trained_network(options: NetworkOptions, weights: str | Path) -> dict[str, Any] | None:
    """The network of a training of this evaluation, whose option file named it; None for a file from elsewhere."""
    return None if options.training is None else read_weights(weights).get('network')


METHODS: dict[str, MethodType] = {
    'noisy': MethodType(NoisyOptions, classical.noisy),
    'gaussian': MethodType(GaussianOptions, classical.gaussian),
    'opencv_nlm': MethodType(OpenCVNLMOptions, classical.opencv_nlm),
    'skimage_nlm': MethodType(SkimageNLMOptions, classical.skimage_nlm),
    'skimage_tv': MethodType(SkimageTVOptions, classical.skimage_tv),
    'skimage_wavelet': MethodType(SkimageWaveletOptions, classical.skimage_wavelet),
    'bm3d': MethodType(BM3DOptions, classical.bm3d),
    'denoiser': MethodType(DenoiserOptions, denoiser),
    'spectral': MethodType(SpectralOptions, spectral),
    'blend': MethodType(BlendOptions, blend),
}
