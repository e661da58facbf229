"""The figure of crops: where its pixels come from."""

from __future__ import annotations

import numpy as np

from basicsr_sassid.evaluation.crop_grid import CROP, crop_box, draw_crop_grid

HEAD, GAP = 52, 6  # pixels above the crops, and between columns; crops are drawn twice as large


def test_draw_crop_grid_residual_is_amplified_four_times():
    crop = np.full((CROP, CROP, 3), 100, np.uint8)
    grid = draw_crop_grid([{'noisy': (crop + np.uint8(10), ''), 'method': (crop, '20.00 dB')}], residuals=True)
    middle = GAP + 2 * CROP + GAP + CROP
    assert (grid[HEAD + CROP, middle] == 100).all() and (grid[HEAD + 3 * CROP, middle] == 128 + 40).all()


def test_draw_crop_grid_without_residuals_has_half_the_rows():
    crop = np.zeros((CROP, CROP, 3), np.uint8)
    with_residuals, without = (draw_crop_grid([{'noisy': (crop, '')}], residuals=flag) for flag in (True, False))
    assert len(with_residuals) - len(without) == 2 * CROP


def test_crop_box_is_inside_the_image():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    assert image[crop_box(image)].shape == (CROP, CROP, 3)


def test_crop_box_of_a_small_image_is_the_image():
    image = np.zeros((90, 120, 3), np.uint8)
    assert image[crop_box(image)].shape == image.shape


def test_draw_crop_grid_footer_is_below_the_same_picture():
    rows = [{'noisy': (np.zeros((CROP, CROP, 3), np.uint8), '20.00 dB')}]
    plain, grid = draw_crop_grid(rows), draw_crop_grid(rows, footer='one line ' * 8)
    assert len(grid) > len(plain) and (grid[: len(plain)] == plain).all()
    assert (grid[len(plain) :] < 128).any() and (grid[:, [0, -1]] == 255).all()
