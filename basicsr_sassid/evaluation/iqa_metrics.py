"""No-reference metrics of BasicSR's registry on photographs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from basicsr.metrics import calculate_metric
from basicsr.utils.registry import METRIC_REGISTRY

from basicsr_sassid.evaluation.iqa_schema import IQAMetricOptions
from basicsr_sassid.io.photo import Photo, read_photo
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.option_checks import argument_names, check_keys, check_type

_TRIAL_SIDE = 224  # pixels: what networks take
_NIQE_BLOCK = 96  # pixels a side; the covariance of NIQE's features needs two blocks


def check_iqa_metrics(metrics: Mapping[str, IQAMetricOptions]) -> None:
    """Compute each metric of a small image.

    Raises:
        UserError: a metric is unknown, refuses an argument, or needs a reference.
    """
    image = np.random.default_rng(0).integers(0, 256, (_TRIAL_SIDE, _TRIAL_SIDE, 3), np.uint8)
    for name, options in metrics.items():
        where = f'metrics.{name}'
        check_type(METRIC_REGISTRY, options.type, f'{where}.type')
        metric: Any = METRIC_REGISTRY.get(options.type)
        reference = inspect.signature(metric).parameters.get('img2')
        if reference is not None and reference.default is reference.empty:
            raise UserError(f'{where}: {options.type} compares with a reference; expected a no-reference metric')
        known = set(argument_names(metric)) - {'img', 'img2'}
        if metric.__module__.startswith('basicsr') and known:  # these ignore what they do not know
            check_keys(options.model_dump(), ['type', 'better', *known], where)
        if options.type == 'calculate_niqe' and options.better == 'higher':
            raise UserError(f"{where}: a lower NIQE is better: expected 'better: lower'")
        try:
            evaluate_metric(image, options)
        except UserError as error:
            raise UserError(f'{where}: {error}') from error
        except Exception as error:  # a metric of anybody's
            raise UserError(
                f'{where}: {options.type} fails on an image of {_TRIAL_SIDE}x{_TRIAL_SIDE}: {error_line(error)}'
            ) from error


def evaluate_metric(image: np.ndarray, options: IQAMetricOptions) -> float:
    """A metric of an image, (H, W, 3) uint8 BGR. Raises UserError: too small for NIQE, or the value is not finite."""
    if options.type == 'calculate_niqe':
        _check_niqe_size(image, options)
    with warnings.catch_warnings(), np.errstate(all='ignore'):  # of nan, which is an error below
        warnings.simplefilter('ignore')
        value = float(calculate_metric({'img': image}, {'type': options.type, **options.arguments()}))
    if not np.isfinite(value):
        raise UserError(f'{options.type} gives {value} for an image of {image.shape[0]}x{image.shape[1]} pixels')
    return value


def read_bgr(path: Path) -> np.ndarray:
    """An image file as metrics take it: (H, W, 3) uint8 BGR; grey is repeated, alpha left out, 16 bits rounded to 8.

    Raises:
        UserError: it cannot be read.
    """
    photo: Photo = read_photo(path)
    pixels = photo.pixels
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))[..., ::-1])


def error_line(error: BaseException) -> str:
    """The first line of an error, with its type unless it is a UserError."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ''
    return text if isinstance(error, UserError) else f'{type(error).__name__}: {text}'.removesuffix(': ')


def _check_niqe_size(image: np.ndarray, options: IQAMetricOptions) -> None:
    border = options.arguments().get('crop_border')
    if not isinstance(border, int):
        return  # the metric refuses it
    height, width = (max(side - 2 * border, 0) for side in image.shape[:2])
    if (height // _NIQE_BLOCK) * (width // _NIQE_BLOCK) < 2:
        raise UserError(
            f'calculate_niqe expects two blocks of {_NIQE_BLOCK}x{_NIQE_BLOCK} pixels, got {height}x{width}'
        )
