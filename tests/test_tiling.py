"""The tile loop."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_sassid.ops.tiling import process_tiles, tile_grid

SIZES = [(1, 1), (64, 64), (200, 131), (97, 400)]


@pytest.mark.parametrize('size', SIZES)
def test_tile_grid_covers_every_pixel_once(size):
    covered = np.zeros(size, int)
    for tile in tile_grid(*size, tile=64, overlap=32, multiple=32):
        covered[tile.output_box] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize('size', SIZES)
def test_tile_grid_crop_of_the_input_is_the_output_box(size):
    coordinates = np.indices(size)
    for input_box, crop_box, output_box in tile_grid(*size, tile=64, overlap=32, multiple=32):
        cropped = coordinates[(slice(None), *input_box)][(slice(None), *crop_box)]
        assert np.array_equal(cropped, coordinates[(slice(None), *output_box)])


@pytest.mark.parametrize('size', SIZES)
def test_tile_grid_inputs_start_on_the_multiple(size):
    for tile in tile_grid(*size, tile=64, overlap=32, multiple=32):
        assert tile.input_box[0].start % 32 == tile.input_box[1].start % 32 == 0


@pytest.mark.parametrize(('tile', 'overlap'), [(0, 32), (64, -32), (50, 32), (64, 20)])
def test_tile_grid_off_the_multiple_raises_value_error(tile, overlap):
    with pytest.raises(ValueError, match='expected multiples of 32'):
        next(tile_grid(100, 100, tile, overlap, 32))


def test_process_tiles_identity_returns_the_image_and_reports_progress():
    image, fractions = np.random.default_rng(0).random((100, 70, 3)), []
    assert np.array_equal(process_tiles(image, lambda tile, box: tile, 50, 10, progress=fractions.append), image)
    assert fractions == [0.25, 0.5, 0.75, 1]
