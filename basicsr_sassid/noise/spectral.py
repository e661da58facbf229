"""A denoiser that needs no training: shrinkage of local spectra against the measured spectrum of the noise."""
from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from scipy import fft

from basicsr_sassid._checks import UserError
from basicsr_sassid.noise.estimate import MAX_LAG, PATCH, Noise, flat_squares, is_grey

BLOCK = 16  # pixels a side of a local spectrum
_INTENSITY_SIGMA = 4.  # pixels, of the blur that gives the intensity at which a pixel's noise is looked up
_STRIDE = 4
_SCALES = 3
_LEVEL_SPREAD = 0.3  # of logarithms of levels, between photographs: what a photograph's own spread is weighed against
_THRESHOLD = 3.2  # standard deviations of a coefficient's noise
_COARSE_SHARE = 0.4  # of a coarser scale's frequencies that replace the finer one's
_TILE, _MARGIN = 512, 64
_GRID = 64  # of the power spectrum
# luminance and two differences of colour, orthonormal: what a photograph's channels share is in the first
_OPPONENT = np.linalg.qr(np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]], float).T)[0].T.astype(np.float32)


class SpectralDenoiser:
    """Denoise images whose noise was measured. A classical method, on NumPy, SciPy and OpenCV.

    Every pixel is divided by the noise's standard deviation at its intensity; overlapping 16x16 blocks of luminance and
    colour differences are transformed by a DCT, whose coefficients are compared with the power that the noise's
    correlation gives them: first by a threshold, then by a Wiener filter that takes the first result for the signal.
    Three scales, the low frequencies of each from the coarser one.

    Args:
        noise: of :func:`estimate_noise`, from this image or from others like it.
        adapt: measure the level anew in each image (its ISO), keeping the shape of ``noise``.
        strength: factor on the noise's standard deviation.

    Example:
        >>> from basicsr_sassid import estimate_noise
        >>> rng = np.random.default_rng(0)
        >>> noisy = np.full((96, 96, 3), 0.5) + rng.normal(0, 0.1, (96, 96, 3))
        >>> denoise = SpectralDenoiser(estimate_noise([noisy]))
        >>> bool((denoise(noisy) - 0.5).std() < 0.02)
        True
    """

    def __init__(self, noise: Noise, adapt: bool = True, strength: float = 1.) -> None:
        self.noise, self.adapt, self.strength = noise, adapt, strength
        self.powers = {grey: _block_powers(noise.for_grey() if grey else noise) for grey in (False, True)}

    def __call__(self, image: np.ndarray, progress: Callable[[float], None] | None = None) -> np.ndarray:
        """Denoise one image.

        Args:
            image: (H, W), (H, W, 1) or (H, W, 3) RGB; uint8, uint16, or float in [0, 1].
            progress: called with the share done, 0 to 1.

        Returns:
            The image denoised: same shape, dtype and range.

        Raises:
            UserError: another shape or dtype.
        """
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
            raise UserError(f'expected an image of shape (H, W), (H, W, 1) or (H, W, 3), got {image.shape}')
        white = np.iinfo(pixels.dtype).max if np.issubdtype(pixels.dtype, np.integer) else 1.
        level = self.strength * (relative_level(image, self.noise) if self.adapt else np.ones(3, np.float32))
        grey, result = is_grey(pixels), np.empty_like(pixels)
        height, width = pixels.shape[:2]
        corners = [(top, left) for top in range(0, height, _TILE) for left in range(0, width, _TILE)]
        for number, (top, left) in enumerate(corners, 1):
            above, before = min(top, _MARGIN), min(left, _MARGIN)
            seen = pixels[top - above:top + _TILE + _MARGIN, left - before:left + _TILE + _MARGIN]
            rgb = np.broadcast_to(seen, (*seen.shape[:2], 3)).astype(np.float32) * (255. / white)
            denoised = self._denoise(rgb, level, self.powers[grey])[above:above + _TILE, before:before + _TILE]
            denoised = (denoised * (white / 255.)).clip(0, white)
            denoised = denoised.mean(axis=2, keepdims=True) if pixels.shape[2] == 1 else denoised
            result[top:top + _TILE, left:left + _TILE] = denoised.round() if white > 1 else denoised
            if progress:
                progress(number / len(corners))
        return result.reshape(image.shape)

    def _denoise(self, rgb: np.ndarray, level: np.ndarray, powers: list[np.ndarray]) -> np.ndarray:
        """(H, W, 3), grey levels. The noise is made alike everywhere, then taken out, then all is scaled back."""
        height, width = rgb.shape[:2]
        unit = 2 ** (_SCALES - 1) * _STRIDE
        least = 2 ** (_SCALES - 1) * BLOCK  # a block at the coarsest scale
        padding = [(BLOCK, max(BLOCK + -side % unit, least - BLOCK - side)) for side in (height, width)] + [(0, 0)]
        padded = np.pad(rgb, padding, 'reflect' if min(height, width) > least else 'symmetric')
        sigma = level * self.noise.sigma_at(local_intensity(padded))
        sigma = np.maximum(sigma, 1e-3)
        opponent = np.tensordot(padded / sigma, _OPPONENT, (2, 1)).transpose(2, 0, 1)
        clean = np.stack([_multiscale(plane, [power[channel] for power in powers])
                          for channel, plane in enumerate(np.ascontiguousarray(opponent))], axis=2)
        return (clean @ _OPPONENT * sigma)[BLOCK:BLOCK + height, BLOCK:BLOCK + width]


def relative_level(image: np.ndarray, noise: Noise) -> np.ndarray:
    """(3,): how strong the noise of an image is in R, G, B, as a multiple of ``noise``'s; 1 where it can't be told.

    The median over its flat squares, drawn towards 1 the more they differ: noise is alike in all, texture is not.
    """
    if min(image.shape[:2]) < PATCH:
        return np.ones(3, np.float32)
    squares = flat_squares(image)
    ratio = squares.variances / np.maximum(noise.sigma_at(squares.means) ** 2, 1e-6)
    return np.array([_level(np.log(np.maximum(column[np.isfinite(column)], 1e-6)) / 2) for column in ratio.T],
                    np.float32).clip(0.1, 10)


def _level(logs: np.ndarray) -> float:
    if len(logs) < 3:
        return 1.
    middle = np.median(logs)
    spread = 1.48 * np.median(np.abs(logs - middle))  # a standard deviation, if they are normal
    return float(np.exp(middle * _LEVEL_SPREAD ** 2 / (_LEVEL_SPREAD ** 2 + spread ** 2)))


def local_sigma(image: np.ndarray, noise: Noise) -> np.ndarray:
    """The noise's standard deviation at every pixel of (H, W, 3) float32 in [0, 1], in grey levels."""
    return relative_level(image, noise) * noise.sigma_at(local_intensity(image * np.float32(255)))


def local_intensity(grey_levels: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(grey_levels, (0, 0), _INTENSITY_SIGMA)


def _block_powers(noise: Noise) -> list[np.ndarray]:
    """For each scale (3, 16, 16): the noise's variance in each DCT coefficient of the three opponent channels."""
    rows = np.arange(BLOCK)
    basis = np.sqrt(2 / BLOCK) * np.cos(np.pi * (rows + 0.5) * rows[:, None] / BLOCK)
    basis[0] = np.sqrt(1 / BLOCK)
    lags = np.stack([np.correlate(row, row, 'full') for row in basis])  # (16, 31): of each basis function with itself
    opponent = np.einsum('kc,kd,cdyx->kyx', _OPPONENT, _OPPONENT, noise.joint)
    whole = np.zeros((3, _GRID, _GRID))
    whole[:, :2 * MAX_LAG + 1, :2 * MAX_LAG + 1] = opponent
    spectrum = np.fft.fft2(np.roll(whole, (-MAX_LAG, -MAX_LAG), axis=(1, 2))).real.clip(0)
    powers = []
    for _ in range(_SCALES):
        covariance = np.fft.fftshift(np.fft.ifft2(spectrum).real, axes=(1, 2))
        middle = covariance.shape[1] // 2
        if middle < BLOCK:  # a coarse scale's noise is all but white: what is further away is nothing
            covariance = np.pad(covariance, ((0, 0), *[(BLOCK - middle, BLOCK - middle)] * 2))
            middle = BLOCK
        near = covariance[:, middle - BLOCK + 1:middle + BLOCK, middle - BLOCK + 1:middle + BLOCK]
        powers.append(np.maximum(lags @ near @ lags.T, 1e-4).astype(np.float32))
        quarter = spectrum.shape[1] // 4  # halving the sides keeps the lower half of the frequencies
        low = np.fft.fftshift(spectrum, axes=(1, 2))[:, quarter:-quarter, quarter:-quarter]
        spectrum = np.fft.ifftshift(low, axes=(1, 2)) / 4  # and averages four pixels
    return powers


def _multiscale(plane: np.ndarray, powers: list[np.ndarray]) -> np.ndarray:
    """(H, W), sides multiples of 4 * 2^(scales - 1), denoised at this scale and the coarser ones."""
    clean = _two_steps(plane, powers[0])
    if len(powers) == 1:
        return clean
    height, width = (side // 2 for side in plane.shape)
    spectrum = fft.dctn(clean, norm='ortho')
    coarse = fft.idctn(fft.dctn(plane, norm='ortho')[:height, :width], norm='ortho') / 2
    coarse = fft.dctn(_multiscale(coarse, powers[1:]), norm='ortho') * 2
    low = tuple(slice(0, int(_COARSE_SHARE * side)) for side in (height, width))
    spectrum[low] = coarse[low]
    return fft.idctn(spectrum, norm='ortho')


def _two_steps(plane: np.ndarray, power: np.ndarray) -> np.ndarray:
    noisy = _spectra(plane)
    kept = np.abs(noisy) > _THRESHOLD * np.sqrt(power)
    kept[..., 0, 0] = True
    first = _joined(noisy * kept, 1 / (kept * power).sum(axis=(-1, -2)), plane.shape)
    signal = _spectra(first) ** 2
    gain = signal / (signal + power)
    return _joined(noisy * gain, 1 / (gain ** 2 * power).sum(axis=(-1, -2)).clip(1e-6), plane.shape)


def _spectra(plane: np.ndarray) -> np.ndarray:
    """(rows, columns, 16, 16): DCT of every block."""
    blocks = np.lib.stride_tricks.sliding_window_view(plane, (BLOCK, BLOCK))[::_STRIDE, ::_STRIDE]
    return fft.dctn(blocks, axes=(-2, -1), norm='ortho')


def _joined(spectra: np.ndarray, weights: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The weighed mean of overlapping blocks, back in their places."""
    blocks = fft.idctn(spectra, axes=(-2, -1), norm='ortho') * weights[..., None, None]
    total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    phases = BLOCK // _STRIDE
    for top in range(phases):
        for left in range(phases):  # blocks of one phase lie side by side
            some = blocks[top::phases, left::phases]
            rows, columns = some.shape[0] * BLOCK, some.shape[1] * BLOCK
            place = (slice(top * _STRIDE, top * _STRIDE + rows), slice(left * _STRIDE, left * _STRIDE + columns))
            total[place] += some.transpose(0, 2, 1, 3).reshape(rows, columns)
            weight[place] += weights[top::phases, left::phases].repeat(BLOCK, 0).repeat(BLOCK, 1)
    return total / weight
