"""The typed options of an evaluation: datasets, protocols, trainings, methods, crop grid. Every default is stated here,
or in the class that a method hands its settings to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field

from basicsr_sassid.evaluation.protocols import describe_protocol
from basicsr_sassid.inference.subsampled import InferenceConfig
from basicsr_sassid.utils.blind_size import BlindSizeOption
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.names import FileName
from basicsr_sassid.utils.option_checks import check_choice, check_finite
from basicsr_sassid.utils.schema import OptionBlock

_RENAMED_TYPES = {'mixture': 'blend'}


Positive: TypeAlias = Annotated[float, Field(gt=0, le=1e6)]
Candidates: TypeAlias = Annotated[list[Positive], Field(min_length=1)]


class BestOf(OptionBlock):
    """A setting that is chosen by the clean references, which no user could do.

    Attributes:
        best_of: candidates.
    """

    best_of: list[Positive]


def _setting(*words: str) -> BeforeValidator:
    """A number > 0, ``{best_of: [numbers]}``, or one of ``words``."""

    def is_number(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0

    def parse(value: object) -> object:
        if isinstance(value, Mapping) and set(value) == {'best_of'}:
            candidates = value['best_of']
            if isinstance(candidates, list) and candidates and all(map(is_number, candidates)):
                return BestOf(best_of=candidates)
        elif is_number(value) or value in words or isinstance(value, BestOf):
            return value
        raise ValueError(
            f'expected a number > 0, {"".join(f"{word}, " for word in words)}or {{best_of: [numbers]}}, got {value!r}'
        )

    return BeforeValidator(parse)


def _empty_block() -> BeforeValidator:
    """A key whose block is empty in the file has the defaults."""
    return BeforeValidator(lambda value: {} if value is None else value)


Setting: TypeAlias = Annotated[Positive | BestOf, _setting()]
SettingOrSigma: TypeAlias = Annotated[Positive | Literal['sigma'] | BestOf, _setting('sigma')]
PathText: TypeAlias = Annotated[
    str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
]


class DatasetOptions(OptionBlock):
    """``datasets.<name>``: a block of BasicSR's paired datasets, whose other keys are BasicSR's.

    Attributes:
        dataroot_lq, dataroot_gt: folders or LMDBs of the noisy images and of their clean references.
        type: name in BasicSR's registry.
        every: evaluate the first of so many images; trainings see all noisy images.
    """

    model_config = ConfigDict(extra='allow')
    dataroot_lq: PathText
    dataroot_gt: PathText
    type: str = 'PairedImageDataset'
    every: int = Field(1, ge=1)


class TrainingOptions(OptionBlock):
    """``trainings.<name>``: a training on the noisy images of each dataset.

    Attributes:
        opt: option file, such as ``options/sassid/train_cpu.yml``.
        minutes: time for all stages.
        force_yml: changes ``a:b=value``, as on the command line.
    """

    opt: PathText
    minutes: float = Field(gt=0, le=10**5)
    force_yml: list[str] = []


class CropGridOptions(OptionBlock):
    """``crop_grid``: the figure of each dataset.

    Attributes:
        images: number of rows, evenly spaced images.
        methods: columns; empty: all methods.
    """

    images: int = Field(default=3, ge=1, le=100)
    methods: Annotated[list[str], BeforeValidator(lambda value: [] if value is None else value)] = []


# ---- methods ----


class MethodOptions(OptionBlock):
    """``methods.<name>``: a type, and the settings of that type.

    Attributes:
        type: name of the method.
    """

    type: str


class NoisyOptions(MethodOptions):
    """The noisy image itself."""


class GaussianOptions(MethodOptions):
    """Gaussian blur; ``sigma`` in pixels."""

    sigma: Setting = 1.5


class OpenCVNLMOptions(MethodOptions):
    """OpenCV's non-local means; ``h`` in grey levels, ``sigma``: scikit-image's estimate for each image."""

    h: SettingOrSigma = 3.0


class SkimageNLMOptions(MethodOptions):
    """scikit-image's non-local means; ``h``: candidates of its calibration, of images in [0, 1]."""

    h: Candidates = np.geomspace(0.005, 0.3, 6).tolist()


class SkimageTVOptions(MethodOptions):
    """scikit-image's total variation; ``weights``: candidates of its calibration."""

    weights: Candidates = np.geomspace(0.005, 0.3, 8).tolist()


class SkimageWaveletOptions(MethodOptions):
    """scikit-image's wavelets; ``sigmas``: candidates of its calibration, of images in [0, 1]."""

    sigmas: Candidates = np.geomspace(0.005, 0.3, 8).tolist()


class BM3DOptions(MethodOptions):
    """BM3D.

    Attributes:
        noise: ``sigma``: white, by scikit-image's estimate; ``spectrum``: as measured in the noisy images.
        adapt: measure the gain of ``spectrum`` anew in each image.
    """

    noise: Literal['sigma', 'spectrum'] = 'sigma'
    adapt: bool = True


class SpectralOptions(MethodOptions):
    """The classical denoiser of this package; the keys are SpectralDenoiser's arguments."""

    adapt: bool | None = None
    strength: float | None = Field(default=None, ge=0, le=100)
    grouping: bool | None = None


class NetworkOptions(MethodOptions):
    """A network: either a file or a training.

    Attributes:
        weights: ``.pth`` or ``.safetensors``.
        training: one of ``trainings``.
        net: network of that training; default: ``g``, or ``bsn`` where the training has no stage ``unet``.
    """

    weights: PathText | None = None
    training: str | None = None
    net: Literal['g', 'bsn', 'bnn', 'lan'] | None = None


class DenoiserOptions(NetworkOptions):
    """Any network of BasicSR's registry; the other keys and their defaults are Denoiser's."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        'passes': 'inference, with the keys of the option block inference (stride is now pd_b, parts num_masks)'
    }
    tile: int | None = Field(default=None, ge=0)
    overlap: int | None = Field(default=None, ge=0)
    self_ensemble: bool | None = None
    precision: Literal['auto', 'fp32', 'bf16', 'fp16'] | None = None
    key: str | None = None
    network: dict[str, Any] | None = None
    img_range: float | None = Field(default=None, gt=0, le=65535)
    inference: InferenceConfig | None = None
    blind_size: BlindSizeOption = None

    def denoiser_arguments(self) -> dict[str, Any]:
        """The keys in the file, as Denoiser's arguments."""
        return self.model_dump(exclude_unset=True, exclude={'type', 'weights', 'training', 'net'})


class BlendOptions(NetworkOptions):
    """The blend that ``sassid clean`` writes, of a network and the spectral denoiser."""


# ---- the file ----


class EvaluationOptions(OptionBlock):
    """An evaluation file such as ``options/evaluation/classical.yml``.

    Attributes:
        name: results land in ``results/benchmark/<name>``.
        datasets, trainings, methods: name -> block.
        protocols: metrics, see :mod:`basicsr_sassid.evaluation.protocols`.
        crop_grid: the figure of each dataset.
        device: ``auto``, or torch's name of a device.
        seed: of the trainings.
    """

    renamed_keys: ClassVar[Mapping[str, str]] = {'sheet': 'crop_grid'}
    name: FileName
    datasets: dict[FileName, DatasetOptions]
    methods: dict[str, MethodOptions]
    trainings: Annotated[dict[FileName, TrainingOptions], _empty_block()] = {}
    protocols: list[str] = ['psnr', 'ssim_gaussian']
    crop_grid: Annotated[CropGridOptions, _empty_block()] = CropGridOptions()
    device: str = 'auto'
    seed: int = Field(0, ge=0, le=2**32 - 1)


def parse_evaluation(opt: Mapping[str, Any], method_options: Mapping[str, type[MethodOptions]]) -> EvaluationOptions:
    """Check the options of an evaluation file.

    Args:
        opt: plain dicts, of :func:`read_options`.
        method_options: type of a method -> its option block.

    Raises:
        UserError: names the key, what was found and what is allowed.
    """
    check_finite(opt)
    blocks = opt.get('methods')
    parsed = (
        {name: _parse_method(f'methods.{name}', block, method_options) for name, block in blocks.items()}
        if isinstance(blocks, Mapping)
        else blocks
    )
    try:
        options = EvaluationOptions.parse({**opt, **({} if parsed is None else {'methods': parsed})}, 'options')
    except UserError as error:
        raise UserError(str(error).removeprefix('options.')) from error  # the path of the key, from the file's top
    for protocol in options.protocols:
        describe_protocol(protocol)
    for name in options.crop_grid.methods:
        check_choice(name, options.methods, 'crop_grid.methods')
    for name, method in options.methods.items():
        if isinstance(method, NetworkOptions):
            _check_source(f'methods.{name}', method, options.trainings)
    return options


def is_oracle(block: Mapping[str, Any]) -> bool:
    """Whether the clean references choose a setting of a method's option block, which no user could do."""
    return any(isinstance(value, Mapping) and 'best_of' in value for value in block.values())


def _parse_method(where: str, block: object, method_options: Mapping[str, type[MethodOptions]]) -> MethodOptions:
    if not isinstance(block, Mapping):
        raise UserError(f'{where}: expected a block of keys, got {block!r}')
    if 'type' not in block:
        raise UserError(f"{where}: key 'type' is missing.")
    if block['type'] in _RENAMED_TYPES:
        raise UserError(f'{where}.type: {block["type"]!r} was renamed: {_RENAMED_TYPES[block["type"]]}')
    check_choice(block['type'], method_options, f'{where}.type')
    return method_options[block['type']].parse(block, where)


def _check_source(where: str, method: NetworkOptions, trainings: Mapping[str, TrainingOptions]) -> None:
    if (method.weights is None) == (method.training is None):
        raise UserError(f'{where}: expected weights (a file) or training (one of {", ".join(trainings) or "none"})')
    if method.training is not None:
        check_choice(method.training, trainings, f'{where}.training')
