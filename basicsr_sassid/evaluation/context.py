"""Arguments and results of the functions that build the methods of an evaluation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from basicsr_sassid.evaluation.schema import MethodOptions
from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import NoiseModel

Run = Callable[[np.ndarray], np.ndarray]  # (H, W, 3) uint8 RGB to the same


@dataclasses.dataclass
class Method:
    """A denoiser ready to use.

    Attributes:
        run: (H, W, 3) uint8 RGB to the same.
        net: its network, where it has one.
        note: a setting that was found before the first image, for the table.
    """

    run: Run
    net: nn.Module | None = None
    note: str = ''


@dataclasses.dataclass
class MethodContext:
    """The data that a method may use before the first image.

    Attributes:
        pairs: (noisy image, clean reference), (H, W, 3) uint8 RGB; only ``best_of`` looks at the references.
        device: torch's name of the device for networks.
        weights_of: (training, network or None for the one that it delivers) -> weights file; None: nothing is trained.
        noise: of all noisy images together, measured on first use.
    """

    pairs: list[tuple[np.ndarray, np.ndarray]]
    device: str
    weights_of: Callable[[str, str | None], Path] | None = None

    @functools.cached_property
    def noise(self) -> NoiseModel:
        """Of all noisy images together."""
        return estimate_noise(noisy for noisy, _ in self.pairs)


Builder = Callable[[Any, MethodContext], Method]


@dataclasses.dataclass(frozen=True)
class MethodType:
    """A type of method: its option block, and the function that builds a method from it."""

    options: type[MethodOptions]
    build: Builder
