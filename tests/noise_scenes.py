"""Real scenes with noise whose truth is known."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import skimage.data

from basicsr_sassid import NoiseModel, estimate_noise
from basicsr_sassid.noise.model import MAX_LAG
from basicsr_sassid.noise.synthetic import simulate_camera

Pair = tuple[np.ndarray, np.ndarray]  # noisy, clean: (H, W, 3) uint8


def noisy_photographs(width: int, seed: int, sigma: float = 15.0) -> list[np.ndarray]:
    """Three scenes with noise that is correlated over ``width`` x ``width`` pixels, and no further."""
    rng = np.random.default_rng(seed)
    box = (width + 1) // 2  # two boxes of this width overlap at distances up to width // 2
    images = []
    for photograph in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()):
        scene = cv2.resize(photograph, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).astype(np.float32)
        noise = cv2.filter2D(
            rng.normal(0, 1, scene.shape).astype(np.float32), -1, np.full((box, box), 1 / box, np.float32)
        )
        images.append((0.8 * scene + 25 + sigma * noise).clip(0, 255).astype(np.uint8))
    return images


def camera_pair(seed: int, photons: float = 80.0) -> Pair:
    """(320, 400, 3): simulated camera noise on a real scene, no perfect black."""
    scene = (skimage.data.coffee(), skimage.data.chelsea())[seed % 2][:120, 100:234]
    scene = cv2.resize(scene, (400, 320), interpolation=cv2.INTER_CUBIC)
    return simulate_camera(np.round(31 + 0.76 * scene).astype(np.uint8), np.random.default_rng(seed), photons)


@functools.cache
def camera_pairs() -> tuple[list[Pair], NoiseModel]:
    """Four pairs, and the noise that is measured on them."""
    pairs = [camera_pair(seed) for seed in range(4)]
    return pairs, estimate_noise([noisy for noisy, _ in pairs])


def unit_range(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


def saturated_photograph(is_grey: bool, seed: int = 0) -> Pair:
    """(256, 256, C): a wall in uneven light, and a blank area that the sensor cannot tell from white, at 245 and 249.

    Few patches have the same intensity, and the flattest ones are blank. The tone curve leaves a few pixels above.
    """
    rng = np.random.default_rng(seed)
    light = np.interp(np.arange(256), [0, 150, 170, 256], [100, 200, 600, 600])[None, :, None]
    white = np.float32([249] if is_grey else [255, 249, 245])
    scene = light * np.float32([1] if is_grey else [0.7, 1, 0.9]) * np.ones((256, 1, 1))
    noise = rng.normal(0, 20, scene.shape) * (scene < white)
    noisy = np.minimum(scene + noise, white + rng.geometric(0.9, scene.shape) - 1)
    return noisy.clip(0, 255).astype(np.uint8), np.minimum(scene, white).round().astype(np.uint8)


def dark_photograph_with_detail(seed: int = 0) -> Pair:
    """(256, 256, 3): black but for a corner of stripes. Only the stripes are not clipped by black."""
    rng = np.random.default_rng(seed)
    scene = np.full((256, 256, 3), 12.0)
    scene[:80, :80] = 90 + 40 * np.sin(np.arange(80) / 3)[:, None]
    noisy = (scene + rng.normal(0, 12, scene.shape)).round().clip(0, 255)
    return noisy.astype(np.uint8), scene.round().astype(np.uint8)


def white_noise(sigma: float) -> NoiseModel:
    """The exact model of white noise, in grey levels."""
    correlation = np.zeros((2 * MAX_LAG + 1,) * 2)
    correlation[MAX_LAG, MAX_LAG] = 1
    cross = np.eye(3)[:, :, None, None] * correlation
    return NoiseModel(np.full(3, sigma), correlation, cross, {name: np.empty((0, 2)) for name in 'RGB'}, {}, 100)
