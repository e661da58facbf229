"""The training of a demo by its plan, with the PSNR of the network on one crop for the display."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basicsr_sassid.evaluation.protocols import evaluate_image
from basicsr_sassid.pipeline.planning import STAGES, seconds_done
from basicsr_sassid.training.budget import Plan
from basicsr_sassid.training.loop import train
from basicsr_sassid.training.options import resolve_options

NAME = 'demo'  # of the run
STAGE_NAMES = {'bnn': 'BNN', 'unet': 'student'}
_PRINT_FREQ = 100  # iterations between lines of the log
_SECONDS_AT_RISK, _MOST_STATES = 60, 20  # most seconds of training that a kill can lose, unless states get too many
_PSNR_SECONDS, _PSNR_SHARE = 4.0, 0.01  # between two figures; most of the time that they take

StageProgress = Callable[[str, float], None]  # called with a text and the planned seconds of training that are done


class CropPSNR:
    """PSNR of the network in training on one crop, every few seconds. For the display alone.

    Args:
        noisy, clean: the crop, (H, W, 3) uint8 RGB.
        seconds: between two figures, at least.
    """

    def __init__(self, noisy: np.ndarray, clean: np.ndarray, seconds: float = _PSNR_SECONDS) -> None:
        self.seconds = seconds
        self.lq = torch.from_numpy(np.ascontiguousarray(noisy)).permute(2, 0, 1)[None].float() / 255
        self.clean = clean
        self.text = ''
        self._due = 0.0
        self._stage = ''

    def update(self, model: Any) -> str:
        """``27.4 dB``, the last figure of the stage; empty before the first one."""
        now = time.perf_counter()
        if model.stage.name != self._stage:
            self._stage, self.text, self._due = model.stage.name, '', now + self.seconds / 2
        if now >= self._due:
            model.feed_data({'lq': self.lq})
            model.test()
            result = model.output[0].permute(1, 2, 0).clamp(0, 1).mul(255).round().byte().cpu().numpy()
            self.text = f', {evaluate_image(result, self.clean, "psnr"):.1f} dB'
            ended = time.perf_counter()
            self._due = ended + max(self.seconds, (ended - now) / _PSNR_SHARE)
        return self.text


def models_folder(folder: Path) -> Path:
    """Where the networks of a demo's training are."""
    return folder / 'experiments' / NAME / 'models'


def train_networks(
    opt: dict[str, Any], folder: Path, plan: Plan, progress: StageProgress, crop: CropPSNR | None = None
) -> float:
    """Train, or continue a training that was stopped. BasicSR's log goes to its file.

    Args:
        opt: of :func:`~basicsr_sassid.pipeline.student.student_options`.
        folder: of the run.
        plan: lengths of the stages.
        progress: called after every iteration.
        crop: on which the network is measured for the display.

    Returns:
        Seconds of the training; those of an earlier call are counted as planned.
    """
    plan.apply(opt)
    opt['name'] = NAME
    slowest, length = max(plan.seconds.values()), sum(plan.iters.values())
    frequency = max(int(_SECONDS_AT_RISK / max(slowest, 1e-3)), length // _MOST_STATES, 1)
    opt['logger'].update(print_freq=_PRINT_FREQ, save_checkpoint_freq=frequency)
    started, earlier = time.time(), None

    def on_iteration(model: Any, current_iter: int) -> None:
        nonlocal earlier
        stage = model.stage.name
        iteration = current_iter - sum(plan.iters[name] for name in STAGES[: STAGES.index(stage)])
        done = seconds_done(plan, stage, iteration)
        if earlier is None:
            earlier = done if current_iter > 1 else 0.0
        psnr = '' if crop is None else crop.update(model)
        progress(f'{STAGE_NAMES[stage]} {iteration}/{plan.iters[stage]}{psnr}', done)

    train(resolve_options(opt, folder, True, auto_resume=True), on_iteration=on_iteration)
    return time.time() - started + (earlier or 0.0)
