"""The plan of a demo: the iterations and the comparison that fit into its minutes, from times measured here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydantic import TypeAdapter

from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.io.atomic import write_json
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.pipeline.blending import CROP, FIT_PASSES, MOST_CROPS
from basicsr_sassid.pipeline.measuring import timed
from basicsr_sassid.pipeline.planning import RATIO, STAGES
from basicsr_sassid.training.budget import Plan, StepTimes, allocate_budget
from basicsr_sassid.utils.sequences import evenly_spaced

ROWS = 8  # of the table
TUNING_SIDE, NUM_NLM_STRENGTHS = 256, 6  # pixels a side of the crops that choose the strength of non-local means
_MOST_TUNING_PAIRS = 5
_TILED = 4  # a tile of 64 pixels with 32 of context on each side is four times as large
_FORWARD = 1 / 3  # of a training step's time
_START_STEPS = 15  # of the BNN, in time: the dry run, and the choice among its blind sizes
_RESERVE = 1.1  # of the comparison: what is not measured
_MOST_COMPARISON, _FEW_SECONDS = 0.3, 10.0  # of the demo, where that leaves a pair; seconds that it may always take


@dataclasses.dataclass(frozen=True)
class PixelSeconds:
    """Measured seconds a pixel of the classical denoisers and of the SSIM."""

    spectral: float
    nlm: float
    ssim: float


@dataclasses.dataclass(frozen=True)
class DemoPlan:
    """What a demo does in its minutes.

    Attributes:
        training: lengths of the stages.
        num_pairs: of the comparison; 0 without references.
        start_seconds: to start the training, after the measurement.
        comparison_seconds: expected time of the comparison.
        trained_seconds: of the training, all calls together; None until it is complete.
    """

    training: Plan
    num_pairs: int
    start_seconds: float
    comparison_seconds: float
    trained_seconds: float | None = None

    def seconds_after_measurement(self) -> float:
        """Expected time of all that follows the measurement."""
        return self.start_seconds + self.training.total_seconds() + self.comparison_seconds

    def describe(self, minutes: float) -> str:
        """One line for the user."""
        bnn, student = (self.training.iters[stage] for stage in STAGES)
        comparison = f'; comparison about {self.comparison_seconds:.0f} s' if self.num_pairs else ''
        return (
            f'{minutes:g} {"minute" if minutes == 1 else "minutes"}: {bnn} BNN iterations, {student} student '
            f'iterations, about {self.training.total_seconds():.0f} s{comparison}'
        )

    def save(self, path: Path) -> None:
        """Write the plan as JSON, atomically. Raises UserError if it cannot be written."""
        write_json({**dataclasses.asdict(self), 'training': self.training.to_dict()}, path)

    @classmethod
    def load(cls, path: Path) -> DemoPlan | None:
        """Read a plan; None where there is none, or the file is damaged."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            content = json.loads(path.read_text(encoding='utf-8'))
            content['training'] = dataclasses.asdict(Plan.from_dict(content['training']))
            plan = TypeAdapter(cls).validate_python(content)
            if plan.training.iters.keys() == set(STAGES):
                return plan
        return None


def measure_pixels(noisy: np.ndarray, noise: NoiseModel) -> PixelSeconds:
    """Time the classical parts of the comparison on the centre of a noisy image, (H, W, 3) uint8."""
    crop = np.ascontiguousarray(noisy[:TUNING_SIDE, :TUNING_SIDE])
    denoise = SpectralDenoiser(noise)

    parts = (
        lambda: denoise(crop),
        lambda: cv2.fastNlMeansDenoisingColored(crop, None, 10, 10, 7, 21),
        lambda: evaluate_image(crop, crop, 'ssim_gaussian'),
    )
    return PixelSeconds(*(timed(part) / (crop.shape[0] * crop.shape[1]) for part in parts))


def comparison_seconds(pixels: PixelSeconds, times: StepTimes, opt: Mapping[str, Any], sizes: Sequence[int]) -> float:
    """Expected time of the comparison.

    Args:
        pixels: of the classical parts.
        times: of training steps. A prediction takes a third of one.
        opt: of the training.
        sizes: number of pixels of each compared image.
    """
    block = opt['datasets']['train']
    batch = block['batch_size_per_gpu'] * block['patch_size'] ** 2
    bnn, student = (_FORWARD * times.step[stage] / batch for stage in STAGES)
    blended = FIT_PASSES * sum(min(size, CROP**2) for size in evenly_spaced(sizes, MOST_CROPS))
    tuned = NUM_NLM_STRENGTHS * sum(min(size, TUNING_SIDE**2) for size in evenly_spaced(sizes, _MOST_TUNING_PAIRS))
    total = sum(sizes)
    return _RESERVE * (
        (2 * total + blended) * (pixels.spectral + student)  # a row of its own, and in the blend
        + 2 * _TILED * total * bnn  # with two blind sizes
        + (tuned + total) * pixels.nlm
        + ROWS * total * pixels.ssim
    )


def start_seconds(measurement: float, times: StepTimes) -> float:
    """Time to start the training: what was built to be measured is built again, without the measured steps, and the
    blind sizes of the teacher are compared.

    Args:
        measurement: seconds that the measurement took.
        times: its result.
    """
    return times.building(measurement) + _START_STEPS * times.step[STAGES[0]]


def make_plan(
    times: StepTimes, pixels: PixelSeconds, opt: Mapping[str, Any], sizes: Sequence[int], left: float, start: float
) -> DemoPlan:
    """Divide the rest of a demo between training and comparison.

    Args:
        times: of training steps.
        pixels: of the classical parts.
        opt: of the training.
        sizes: number of pixels of each image with a reference; empty without references.
        left: seconds of the demo.
        start: of these, to start the training.
    """
    left -= start
    num_pairs, most = len(sizes), max(_MOST_COMPARISON * left, _FEW_SECONDS)
    while num_pairs > 1 and _seconds_of(pixels, times, opt, sizes, num_pairs) > most:
        num_pairs -= 1
    comparison = _seconds_of(pixels, times, opt, sizes, num_pairs) if num_pairs else 0.0
    training = allocate_budget(times, RATIO, max(left - comparison, 0.0) / 60)
    return DemoPlan(training, num_pairs, start, comparison)


def _seconds_of(
    pixels: PixelSeconds, times: StepTimes, opt: Mapping[str, Any], sizes: Sequence[int], num_pairs: int
) -> float:
    return comparison_seconds(pixels, times, opt, evenly_spaced(sizes, num_pairs))
