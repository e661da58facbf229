"""Evenly spaced subsets and scaled progress; array helpers."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_sassid.ops.arrays import as_hwc, centre_crop, is_grey, white_level
from basicsr_sassid.utils.errors import UserError
from basicsr_sassid.utils.sequences import evenly_spaced, scaled


@pytest.mark.parametrize(
    ('length', 'most', 'expected'),
    [(10, 4, [0, 3, 6, 9]), (3, 8, [0, 1, 2]), (0, 4, []), (9, 8, [0, 2, 4, 6, 8]), (8, 8, list(range(8)))],
)
def test_evenly_spaced_has_at_most_that_many(length, most, expected):
    assert list(evenly_spaced(range(length), most)) == expected


@pytest.mark.parametrize('items', [list(range(10)), np.arange(10)], ids=['list', 'array'])
def test_evenly_spaced_keeps_the_type(items):
    assert type(evenly_spaced(items, 4)) is type(items)


def test_scaled_maps_to_its_part_of_the_whole():
    fractions = []
    report = scaled(fractions.append, 0.5, 0.25)
    report(0)
    report(1)
    assert fractions == [0.5, 0.75]


def test_scaled_without_a_callback_does_nothing():
    scaled(None, 0, 1)(0.5)


@pytest.mark.parametrize('shape', [(4, 5), (4, 5, 1)])
def test_as_hwc_grey_has_one_channel(shape):
    assert as_hwc(np.zeros(shape)).shape == (4, 5, 1)


@pytest.mark.parametrize('shape', [(4,), (4, 5, 2), (0, 5, 3), (1, 4, 5, 3)])
def test_as_hwc_other_shape_raises_user_error(shape):
    with pytest.raises(UserError, match='expected an image of shape'):
        as_hwc(np.zeros(shape))


@pytest.mark.parametrize(('dtype', 'white'), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)])
def test_white_level_of_a_dtype(dtype, white):
    assert white_level(np.zeros(1, dtype).dtype) == white


@pytest.mark.parametrize(('channels', 'expected'), [((1,), True), ((1, 1, 1), True), ((1, 1, 2), False)])
def test_is_grey_if_channels_are_equal(channels, expected):
    assert is_grey(np.full((2, 2, len(channels)), channels)) is expected


def test_centre_crop_is_the_centre():
    assert centre_crop(np.arange(25).reshape(5, 5, 1), 3)[..., 0].tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
