"""Times of a run's steps, measured on the machine before the training: what the plan of a run is made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.inference.spectral import OVERLAP, TILE, SpectralDenoiser
from basicsr_sassid.io.checkpoint import build_network, save_weights
from basicsr_sassid.io.photo import Photo, read_photo, write_photo
from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.ops.tiling import Size, tiled_pixels
from basicsr_sassid.pipeline.blending import CROP, FIT_PASSES
from basicsr_sassid.pipeline.planning import STAGES, Budget
from basicsr_sassid.pipeline.report import MOST_SHOWN
from basicsr_sassid.pipeline.student import selection_seconds
from basicsr_sassid.training.budget import Plan, StepTimes, measure_step_times
from basicsr_sassid.utils.sequences import Progress, evenly_spaced

_WARM_UP = 64  # pixels a side of an image that is denoised before the time counts
_REPORT_READS = 5  # the report takes as long for a photograph as this many reads of it (measured: PNG, 8 bits)
_SETUP = 0.5  # of the time that building takes when it is measured, with all that happens once in a process

Denoise = Callable[[np.ndarray], np.ndarray]


def plan_run(
    opt: Mapping[str, Any],
    folder: Path,
    minutes: float,
    started: float,
    denoising: float,
    num_crops: int,
    progress: Progress | None = None,
) -> tuple[Budget, Plan]:
    """Measure a step of each stage, and plan the training of a run.

    Args:
        opt: of :func:`student_options`.
        folder: of the run.
        minutes: of the run.
        started: ``time.time()`` at its start.
        denoising: seconds of the steps after the training.
        num_crops: on which the BNN is diagnosed.
        progress: called with the fraction of the measurement that is done, 0 to 1.
    """
    measuring = time.time()
    times = measure_step_times(opt, folder, list(STAGES), progress)
    now = time.time()
    selection = selection_seconds(times.step['bnn'], opt, num_crops)
    budget = Budget(minutes, now - started, setup_seconds(times, now - measuring), selection, denoising)
    return budget, budget.plan(times)


def setup_seconds(times: StepTimes, measuring: float) -> float:
    """Time in which a stage builds and tries its networks and data (measured: 4 and 5 s, where building takes 10 s).

    Args:
        times: that were measured.
        measuring: seconds that it took: the networks were built once, and their steps repeated.
    """
    return _SETUP * times.building(measuring)


def measure_denoising(
    sizes: Mapping[Path, Size],
    crops: Sequence[np.ndarray],
    noise: NoiseModel,
    opt: Mapping[str, Any],
    folder: Path,
    device: str = 'auto',
) -> float:
    """Seconds of all steps after the training: blend, photographs and report.

    Both denoisers are timed on one image, the student as a network that is not trained.

    Args:
        sizes: photograph -> (height, width) in pixels.
        crops: noisy, (H, W, 3) float32 in [0, 1], to which the blend is fitted.
        noise: of the photographs.
        opt: of :func:`student_options`.
        folder: for weights and a picture, which are removed again.
        device: of the student.
    """
    sample = _sample(crops, sizes)
    student = _untrained_student(opt, folder / 'measured.pth', device)
    all_sizes = list(sizes.values())
    crop_sizes = [crop.shape[:2] for crop in crops]
    seconds = 0.0
    for denoise, tile, overlap in ((SpectralDenoiser(noise), TILE, OVERLAP), (student, student.tile, student.overlap)):
        denoise(sample[:_WARM_UP, :_WARM_UP])
        of_sample = timed(lambda denoise=denoise: denoise(sample)) / tiled_pixels([sample.shape[:2]], tile, overlap)
        photographs, blend = (tiled_pixels(group, tile, overlap) for group in (all_sizes, crop_sizes))
        seconds += of_sample * (photographs + FIT_PASSES * blend)
    picture = folder / f'measured{statistics.mode(path.suffix for path in sizes)}'
    writing = timed(lambda: write_photo(Photo(sample), picture))
    reading = timed(lambda: read_photo(picture))
    picture.unlink()
    pixels, shown = (
        sum(height * width for height, width in group) for group in (all_sizes, evenly_spaced(all_sizes, MOST_SHOWN))
    )
    return seconds + ((reading + writing) * pixels + _REPORT_READS * reading * shown) / (
        sample.shape[0] * sample.shape[1]
    )


def _sample(crops: Sequence[np.ndarray], sizes: Mapping[Path, Size]) -> np.ndarray:
    """A picture of the photographs' noise, uint8: as large as most photographs, at most one tile."""
    height, width = (min(int(statistics.median(sides)), TILE) for sides in zip(*sizes.values()))
    pieces = [np.pad(crop, [(0, CROP - side) for side in crop.shape[:2]] + [(0, 0)], 'symmetric') for crop in crops]
    rows = [
        np.concatenate([pieces[(row + 2 * column) % len(pieces)] for column in range(2)], axis=1) for row in range(2)
    ]
    return (np.concatenate(rows)[:height, :width] * 255).round().astype(np.uint8)


def _untrained_student(opt: Mapping[str, Any], weights: Path, device: str) -> Denoiser:
    block = opt['network_g']
    net = build_network(block, 'network_g')
    save_weights({'params': net.state_dict(), 'network': block, 'img_range': 255, 'role': 'g'}, weights)
    denoise = Denoiser(weights, device)
    weights.unlink()
    return denoise


def timed(step: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
