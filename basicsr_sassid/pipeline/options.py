"""Options of `sassid clean`."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

from basicsr_sassid.io.atomic import file_stamp
from basicsr_sassid.noise.model import LARGEST_BLIND_SIZE
from basicsr_sassid.utils.device import choose_device
from basicsr_sassid.utils.errors import UserError, require_path
from basicsr_sassid.utils.option_checks import check_choice

EFFORTS = {'instant': 0.0, 'quick': 5.0, 'normal': 20.0, 'best': 90.0}  # minutes of a run
_LARGEST_SEED = 2**32 - 1  # NumPy's
StrPath = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class CleanOptions:
    """Options of a run, checked.

    Attributes:
        effort: key of :data:`EFFORTS`, which gives the minutes of the run.
        minutes: minutes of the run, in place of ``effort``; 0: no training.
        weights: student of an earlier run; replaces the training.
        save_weights: ``.safetensors`` or ``.pth`` to which the student is copied.
        device: ``auto`` or torch's name of a device.
        blind_size: ``auto`` (from the measured noise), or an odd number of pixels.
        strength: fraction of the noise that is removed, 0 to 1.
        chroma: the same for colour noise; by default ``strength``.
        seed: of the training.
        overwrite: replace files in the output folder that no run has written.

    Raises:
        UserError: a value out of its range; ``save_weights`` without a training.
    """

    effort: str = 'normal'
    minutes: float | None = None
    weights: StrPath | None = None
    save_weights: StrPath | None = None
    device: str = 'auto'
    blind_size: int | str = 'auto'
    strength: float = 1.0
    chroma: float | None = None
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_choice(self.effort, EFFORTS, '--effort')
        if self.minutes is not None and not 0 <= self.minutes < math.inf:
            raise UserError(f'--minutes: expected a number >= 0, got {self.minutes}')
        if self.blind_size != 'auto' and self.blind_size not in range(1, LARGEST_BLIND_SIZE + 1, 2):
            raise UserError(
                f'--blind-size: expected auto or an odd number from 1 to {LARGEST_BLIND_SIZE}, got {self.blind_size!r}'
            )
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise UserError(f'--seed: expected a number from 0 to {_LARGEST_SEED}, got {self.seed}')
        for name, value in (('--strength', self.strength), ('--chroma', self.chroma)):
            if value is not None and not 0 <= value <= 1:
                raise UserError(f'{name}: expected a number from 0 to 1, got {value}')
        if self.save_weights is not None:
            self._check_save_weights(self.save_weights)

    def _check_save_weights(self, target: StrPath) -> None:
        if Path(target).suffix not in ('.pth', '.safetensors'):
            raise UserError(f'--save-weights: expected a name that ends in .safetensors or .pth, got {target}')
        if self.weights is not None or not self.training_minutes:
            raise UserError('--save-weights: this run trains no student to save. Leave it out, or give --minutes.')

    @property
    def training_minutes(self) -> float:
        """Minutes of a run that trains; 0 where none does: with given weights, or without minutes."""
        if self.weights is not None:
            return 0.0
        return EFFORTS[self.effort] if self.minutes is None else self.minutes

    def training_settings(self) -> dict[str, Any]:
        """What the student depends on, as values that JSON has. Raises UserError if the device or file is missing."""
        return {
            'minutes': self.training_minutes,
            'blind_size': self.blind_size,
            'seed': self.seed,
            'device': str(choose_device(self.device)),
            'weights': None if self.weights is None else file_stamp(require_path(self.weights, '--weights')),
        }
