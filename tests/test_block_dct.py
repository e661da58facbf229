"""Block transforms and groups of blocks: each against SciPy's DCT, or against noise that was drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import fft

from basicsr_sassid.inference.grouping import GROUP, REACH, GroupedWiener, most_similar
from basicsr_sassid.inference.shrinkage import Shrinkage
from basicsr_sassid.inference.spectral import SpectralDenoiser
from basicsr_sassid.noise.spectrum import block_covariances, block_power, grey_correlation, scale_covariances
from basicsr_sassid.noise.synthetic import sample_noise
from basicsr_sassid.ops import block_dct

import reference_spectral
from noise_scenes import camera_pairs, white_noise


def planes(height: int = 72, width: int = 88, channels: int = 3) -> torch.Tensor:
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(0))


def nothing(columns: int) -> block_dct.Shrink:
    return lambda spectra, _: spectra.new_ones(spectra.shape[0], spectra.shape[1], columns)


def test_analyse_equals_scipy_dct_of_every_block():
    x = planes()
    rows, columns = (block_dct.count_blocks(side) for side in x.shape[1:])
    spectra = block_dct.analyse(x, torch.empty(3, rows, 16, 16 * columns)).view(3, rows, 16, columns, 16)
    blocks = np.lib.stride_tricks.sliding_window_view(x.numpy(), (16, 16), axis=(1, 2))[:, ::4, ::4]
    expected = fft.dctn(blocks, axes=(-2, -1), norm='ortho').transpose(0, 1, 3, 2, 4)
    assert np.abs(spectra.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize('grids', [1, 2])
@pytest.mark.parametrize('strip_bytes', [1, 2**24])
def test_blocks_that_nothing_shrinks_return_the_planes(monkeypatch, grids, strip_bytes):
    monkeypatch.setitem(block_dct._STRIP_BYTES, 'cpu', strip_bytes)
    x = planes()
    assert (block_dct.shrink_blocks(x, nothing, grids=grids) - x).abs().max() < 1e-5


def test_second_grid_that_has_no_room_is_left_out():
    x = planes(16, 16)
    assert (block_dct.shrink_blocks(x, nothing, grids=2) - x).abs().max() < 1e-5


def test_result_does_not_depend_on_the_strips(monkeypatch):
    pairs, noise = camera_pairs()
    whole = SpectralDenoiser(noise)(pairs[0][0] / np.float32(255))
    monkeypatch.setitem(block_dct._STRIP_BYTES, 'cpu', 2**20)
    assert np.abs(SpectralDenoiser(noise)(pairs[0][0] / np.float32(255)) - whole).max() < 1e-4


def test_shrinkage_of_one_grid_equals_the_first_implementation():
    """To 0.02 grey levels, but for coefficients at the threshold, which rounding may move across it."""
    pairs, noise = camera_pairs()
    noisy, sigma = pairs[0][0][:320, :384], noise.sigma.astype(np.float32)
    x = reference_spectral.opponent_planes(noisy / sigma)
    powers = reference_spectral.block_powers(noise)
    expected = reference_spectral.multiscale_planes(x, powers)
    found = Shrinkage([torch.from_numpy(power) for power in powers], grids=1, coarse_band=0.4)(torch.from_numpy(x))
    difference = np.abs(found.numpy() - expected) * sigma.mean()
    assert np.quantile(difference, 0.999) < 0.02 and difference.max() < 0.2
    assert difference.mean() < 1e-3


def test_block_power_equals_that_of_drawn_noise():
    noise = camera_pairs()[1]
    grey = noise.as_grey()
    drawn = sample_noise(grey, np.full((512, 512, 3), 100, np.float32), np.random.default_rng(0))[..., 0]
    unit = drawn / grey.sigma_at(np.full(3, 100, np.float32))[0]
    blocks = unit.reshape(32, 16, 32, 16).transpose(0, 2, 1, 3)
    found = (fft.dctn(blocks, axes=(-2, -1), norm='ortho') ** 2).mean(axis=(0, 1))
    power = block_power(scale_covariances(grey_correlation(noise), 1)[0], 16)[0]
    strong = power > 0.2 * power.max()
    assert np.abs(np.log(found[strong] / power[strong])).mean() < 0.1


def test_covariance_of_overlapping_blocks_of_white_noise_is_the_overlap_of_their_basis_functions():
    covariance = np.zeros((1, 25, 25))
    covariance[0, 12, 12] = 1
    table = block_covariances(covariance, 16, [(0, 0), (0, 4), (16, 0), (-20, 3)])[:, 0]
    basis = np.asarray(fft.dct(np.eye(16), axis=0, norm='ortho'))
    assert table[0] == pytest.approx(np.ones((16, 16)), abs=1e-6)
    expected = np.array([row[4:] @ row[:-4] for row in basis])
    assert table[1] == pytest.approx(np.broadcast_to(expected, (16, 16)), abs=1e-6)
    assert np.abs(table[2:]).max() < 1e-6


def test_variance_of_the_group_mean_equals_that_of_drawn_noise():
    """Blocks that overlap share noise: their mean keeps more of it than that of blocks far apart."""
    shrinkage = SpectralDenoiser(white_noise(1.0)).shrinkages[True]
    assert shrinkage.covariances is not None
    grouped = GroupedWiener(shrinkage.powers[0], shrinkage.covariances[0])
    shifts = torch.tensor([(0, 0), (0, 1), (1, 0), (1, 1), (-1, 0), (0, -1), (-2, 3), (3, 3)])
    distances = (shifts[:, 0] * (4 * REACH + 1) + shifts[:, 1])[:, None]
    mean, other = (variance.view(16, 16) for variance in grouped._variances(distances))
    x = planes(512, 512, channels=1)
    rows = block_dct.count_blocks(512)
    spectra = block_dct.analyse(x, torch.empty(1, rows, 16, 16 * rows)).view(rows, 16, rows, 16)
    centre = range(4, rows - 4)
    members = [spectra[4 + a : rows - 4 + a, :, 4 + b : rows - 4 + b] for a, b in shifts.tolist()]
    drawn = (torch.stack(members).sum(dim=0) / GROUP**0.5).square().mean(dim=(0, 2))
    assert len(centre) > 100 and float((drawn / mean).log().abs().mean()) < 0.1
    assert float(mean.max()) > 2, 'more than that of independent blocks, 1, where overlapping blocks agree'
    assert (mean + (GROUP - 1) * other).allclose(torch.full((16, 16), float(GROUP)), atol=1e-4)


def test_most_similar_blocks_of_a_periodic_pattern_are_a_period_away():
    stripes = torch.sin(torch.arange(96) * (2 * torch.pi / 8)).expand(96, 96).contiguous()
    shifts = most_similar(stripes)[:, 6:-6, 6:-6]
    assert (shifts[..., 1] % 2 == 0).all(), 'two blocks of the grid are 8 pixels'


def test_grouping_lowers_the_error_on_simulated_noise():
    pairs, noise = camera_pairs()

    def error(denoise: SpectralDenoiser) -> float:
        return float(np.mean([((denoise(noisy).astype(float) - clean) ** 2).mean() for noisy, clean in pairs]))

    assert error(SpectralDenoiser(noise)) < error(SpectralDenoiser(noise, grouping=False))


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (31, 33), (64, 64), (65, 17)])
@pytest.mark.parametrize('grouping', [True, False])
def test_denoiser_of_any_size_is_finite(size, grouping):
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    assert np.isfinite(SpectralDenoiser(camera_pairs()[1], grouping=grouping)(image)).all()
