"""Weight map of the report: the blind sizes of the student's targets at each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.inference.denoiser import Denoiser
from basicsr_sassid.ops.sliding_window import sliding_window_predict
from basicsr_sassid.pipeline.student import PATCH_SIZE
from basicsr_sassid.training.blind_sizes import BlindSizeChoice, turned
from basicsr_sassid.training.target_weights import WINDOW
from basicsr_sassid.utils.blind_size import BlindSize, blind_sides

_LEAST_CONTRAST = 0.02  # a map of less looks constant


def size_span(sizes: Sequence[BlindSize]) -> tuple[BlindSize, BlindSize]:
    """The smallest and the largest size, by the mean of height and width."""
    return min(sizes, key=_mean_side), max(sizes, key=_mean_side)


def _mean_side(size: BlindSize) -> float:
    return sum(blind_sides(size)) / 2


def weight_map(targets: Tensor, choice: BlindSizeChoice) -> np.ndarray | None:
    """The weighted mean of the blind sizes at each pixel, as grey values.

    Args:
        targets: predictions with the K sizes of ``choice``, (1, K, C, H, W) in grey levels.
        choice: blind sizes and weights.

    Returns:
        (H, W) in [0, 1]: 1 where the smallest size alone has weight, 0 where the largest alone has. None where the map
        would look constant: equal weights, one size, one bin; and where the image is too small for the weights' window.
    """
    if choice.weights is None or min(targets.shape[-2:]) <= WINDOW + 1:
        return None
    sides = torch.tensor([_mean_side(size) for size in choice.sizes])
    weights = choice.weights(targets)[0, :, 0]
    mean = (weights * sides[:, None, None]).sum(dim=0) / weights.sum(dim=0)
    grey = ((sides.max() - mean) / (sides.max() - sides.min()).clamp_min(1e-6)).clip(0, 1).numpy()
    return grey if np.ptp(grey) > _LEAST_CONTRAST else None


class TeacherView:
    """The teacher of a run, as the report shows it.

    Args:
        bnn: weights file.
        choice: blind sizes and weights.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, bnn: Path, choice: BlindSizeChoice) -> None:
        denoiser = Denoiser(bnn, 'cpu')
        assert isinstance(denoiser.net, BNN)  # the run wrote the file
        self.net, self.img_range, self.dtype, self.choice = denoiser.net, denoiser.img_range, denoiser.dtype, choice

    def predictions(self, noisy: np.ndarray) -> Tensor:
        """Predictions with all blind sizes, in windows of the training's size, as in a teacher cache.

        Args:
            noisy: (H, W, 3) float32 in [0, 1].

        Returns:
            (1, K, 3, H, W) in grey levels.
        """
        sizes = self.choice.sizes
        image = torch.from_numpy(np.ascontiguousarray(noisy)).permute(2, 0, 1) * self.img_range
        with torch.autocast('cpu', self.dtype, enabled=self.dtype != torch.float32):
            predictions = sliding_window_predict(
                lambda x: self.net.predict_all(x, sizes),
                image,
                PATCH_SIZE,
                batch_size=1,  # bounds the memory
                net_of_turned=lambda x: self.net.predict_all(x, [turned(size) for size in sizes]),
            )
        return predictions.unflatten(0, (len(sizes), -1))[None] * (255 / self.img_range)

    def weight_map(self, noisy: np.ndarray) -> np.ndarray | None:
        """See :func:`weight_map`; (H, W, 3) float32 in [0, 1] -> (H, W) in [0, 1], or None."""
        return weight_map(self.predictions(noisy), self.choice)
