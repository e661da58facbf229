"""Synthetic noise: a camera simulated step by step, and samples of a measured noise model."""

from __future__ import annotations

import cv2
import numpy as np

from basicsr_sassid.noise.model import MAX_LAG, NoiseModel
from basicsr_sassid.noise.spectrum import correlation_spectrum

_WHITE_BALANCE = np.array([2.0, 1.0, 1.6])  # gains of red, green, blue in daylight


def simulate_camera(
    clean: np.ndarray,
    rng: np.random.Generator,
    photons: float = 150.0,
    read_noise: float = 3.0,
    jpeg_quality: int | None = 95,
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate two photographs of a scene by the same camera: one with noise, one without.

    The scene is unprocessed to linear light, mosaicked (RGGB), given shot noise (Poisson) and read noise (Gaussian),
    then developed: demosaicked, white-balanced, gamma-encoded, rounded, and JPEG-compressed. Demosaicking and JPEG
    make the noise spatially correlated, and correlated between channels.

    Args:
        clean: (H, W, 3), uint8 RGB, H and W >= 2.
        rng: source of the noise.
        photons: electrons of a saturated pixel; fewer are noisier.
        read_noise: standard deviation in electrons.
        jpeg_quality: 1 to 100; None leaves JPEG out.

    Returns:
        (noisy, reference): both (H, W, 3), uint8 RGB. The reference is developed alike, without noise and JPEG.
    """
    encoded = clean.astype(np.float64) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4) / _WHITE_BALANCE
    height, width = clean.shape[:2]
    raw = linear[..., 1].copy()
    raw[0::2, 0::2] = linear[0::2, 0::2, 0]
    raw[1::2, 1::2] = linear[1::2, 1::2, 2]
    electrons = rng.poisson(raw * photons) + rng.normal(0, read_noise, (height, width))
    noisy, reference = _develop(electrons / photons), _develop(raw)
    if jpeg_quality is not None:
        _, content = cv2.imencode('.jpg', noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
        decoded = cv2.imdecode(content, cv2.IMREAD_COLOR)
        assert decoded is not None
        noisy = decoded[..., ::-1].copy()
    return noisy, reference


def _develop(raw: np.ndarray) -> np.ndarray:
    """RGGB mosaic, 1 is saturation -> uint8 sRGB."""
    black = 0.25  # kept below zero noise, which clipping would turn into a tint of the shadows
    stored = np.round((raw + black) / (1 + 2 * black) * 65535).clip(0, 65535).astype(np.uint16)
    linear = cv2.cvtColor(stored, cv2.COLOR_BayerRGGB2RGB).astype(np.float64) / 65535 * (1 + 2 * black) - black
    linear = (linear * _WHITE_BALANCE).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)


def sample_noise(noise: NoiseModel, intensity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of the measured sigma and correlation for an image of ``intensity``: both (H, W, 3) in grey levels."""
    height, width = (max(side, 2 * MAX_LAG + 1) for side in intensity.shape[:2])
    # cross_correlation[c, d] is of channel c here with d there: as a matrix its transpose
    spectrum = correlation_spectrum(noise.cross_correlation, height, width).transpose(2, 3, 1, 0)
    values, vectors = np.linalg.eigh((spectrum + spectrum.conj().swapaxes(2, 3)) / 2)
    white = np.fft.fft2(rng.standard_normal((3, height, width))).transpose(1, 2, 0)[..., None]
    # V sqrt(D) V*: of all square roots the one that is real in space, whatever phases the eigenvectors have
    coloured = vectors * np.sqrt(values.clip(0))[..., None, :] @ (vectors.conj().swapaxes(2, 3) @ white)
    unit = np.fft.ifft2(coloured[..., 0], axes=(0, 1)).real[: intensity.shape[0], : intensity.shape[1]]
    return (unit * noise.sigma_at(intensity)).astype(np.float32)
