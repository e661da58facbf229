"""Posterior mean: a blind network's prediction and the noisy pixel, weighted by their variances (Laine et al. 2019)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr_sassid.noise.model import NoiseModel
from basicsr_sassid.noise.sigma_map import sigma_map

_ERROR_SIGMA = 3.0  # pixels, over which the prediction's error is averaged
_LEAST = 0.02  # of the noise's variance: the prediction is nowhere perfect


class PosteriorMean:
    r"""Mean of the clean pixel, given a prediction that has not seen it and its neighbours, and the noisy pixel.

    .. math:: \hat x = \frac{\sigma_n^2 \mu + \sigma_\mu^2 y}{\sigma_n^2 + \sigma_\mu^2}, \qquad
              \sigma_\mu^2 = \max(\mathrm{mean}\,(y - \mu)^2 - \sigma_n^2, 0.02\,\sigma_n^2)

    Laine et al. (2019) train a network to predict :math:`\sigma_\mu`. Here it follows from the measured noise: the
    local mean square of the difference between noisy pixel and prediction, less the noise's variance, is the
    prediction's error. Where the noise is weak and the image has detail, a blind prediction is further from the clean
    pixel than the noisy pixel is.

    Args:
        noise: of :func:`estimate_noise`.
    """

    def __init__(self, noise: NoiseModel) -> None:
        self.noise = noise

    def __call__(self, prediction: Tensor, noisy: Tensor) -> Tensor:
        """(N, 3 * K, H, W) and (N, 3, H, W) in grey levels: K predictions, each with its own error.

        The noise gain (the ISO) is measured in each image.
        """
        with torch.autocast(noisy.device.type, enabled=False):  # squares of grey levels overflow in fp16
            noisy, prediction = noisy.float(), prediction.float()
            repeats = prediction.shape[1] // noisy.shape[1]
            variance, noisy = self._variance(noisy).repeat(1, repeats, 1, 1), noisy.repeat(1, repeats, 1, 1)
            error = _blurred((noisy - prediction) ** 2, _ERROR_SIGMA)
            uncertain = torch.maximum(error - variance, _LEAST * variance)
            return (variance * prediction + uncertain * noisy) / (variance + uncertain)

    def compare(self, prediction: Tensor, noisy: Tensor) -> tuple[float, float]:
        """Mean squared error of the prediction and variance of the noise, both in grey levels squared."""
        variance = self._variance(noisy.float()).mean().item()
        return ((noisy.float() - prediction.float()) ** 2).mean().item() - variance, variance

    def _variance(self, noisy: Tensor) -> Tensor:
        images = (noisy.clamp(0, 255) / 255).permute(0, 2, 3, 1).cpu().numpy()
        sigma = np.stack([sigma_map(np.ascontiguousarray(image), self.noise) for image in images])
        return torch.from_numpy(sigma).to(noisy.device).permute(0, 3, 1, 2).square().clamp_min(1e-4)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with mirrored borders, along rows and columns in turn: torchvision's dense one takes minutes."""
    n, c, height, width = x.shape
    x = x.reshape(n * c, 1, height, width)
    for radius, horizontal in ((min(int(3 * sigma), width - 1), True), (min(int(3 * sigma), height - 1), False)):
        steps = torch.arange(-radius, radius + 1, device=x.device)
        kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
        kernel = (kernel / kernel.sum()).view(1, 1, *((1, -1) if horizontal else (-1, 1)))
        x = F.conv2d(F.pad(x, (radius, radius, 0, 0) if horizontal else (0, 0, radius, radius), 'reflect'), kernel)
    return x.reshape(n, c, height, width)
