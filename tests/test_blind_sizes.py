"""The blind sizes of a BNN's pseudo-targets: candidates, identity guard, choice, options."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from basicsr_sassid.noise.estimate import estimate_noise
from basicsr_sassid.noise.model import MAX_LAG
from basicsr_sassid.training.blind_sizes import (
    BlindSizeChoice,
    candidate_sizes,
    choose_sizes,
    size_text,
    spread_sizes,
    turned,
)
from basicsr_sassid.training.schema import ATBSNTrainOptions, BlindSizesTrainOptions
from basicsr_sassid.utils.errors import UserError

from noise_scenes import white_noise


@pytest.mark.parametrize(
    ('trained', 'sides', 'expected'),
    [
        (9, None, [0, 1, 3, 5, 7, 9]),
        (1, None, [0, 1]),
        (9, (9, 9), [0, 1, 3, 5, 7, 9]),
        (9, (3, 3), [0, 1, 3, 5, 7, 9]),
        (9, (5, 9), [0, 1, 3, 5, (5, 7), (5, 9)]),
        (9, (9, 5), [0, 1, 3, 5, (7, 5), (9, 5)]),
        (7, (1, 15), [0, 1, (1, 3), (1, 5), (1, 7)]),
        (5, (7, 9), [0, 1, 3, 5]),
    ],
    ids=str,
)
def test_candidate_sizes_are_no_larger_than_the_correlation_on_its_shorter_side(trained, sides, expected):
    assert candidate_sizes(trained, sides) == expected


def test_candidate_sizes_of_a_large_network_are_those_that_prediction_takes():
    assert candidate_sizes(129)[-1] == 127


def fake_predict(copied: tuple, calls: list | None = None):
    """Predictions that are the noisy image for the sizes ``copied``, and grey for others."""

    def predict(noisy: Tensor, sizes) -> Tensor:
        if calls is not None:
            calls.append(list(sizes))
        return torch.stack([noisy if size in copied else torch.full_like(noisy, 120) for size in sizes], dim=1)

    return predict


def crops() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(120 + rng.normal(0, 20, (30, 160, 3))).astype(np.float32) / 255 for _ in range(3)]


def test_choose_sizes_drops_those_that_copy_the_input():
    choice, risks = choose_sizes(fake_predict((0, 1)), [0, 1, 3, (5, 7)], crops(), white_noise(20))
    assert choice.sizes == [3, (5, 7)] and choice.noise_kept == pytest.approx([0, 0], abs=1e-6)
    assert list(choice.dropped) == [0, 1] and all(kept > 0.95 for kept in choice.dropped.values())
    assert len(risks.noise_kept) == 4 and choice.weights is None


def test_choose_sizes_keeps_the_largest_even_if_it_copies():
    choice, _ = choose_sizes(fake_predict((0, 1, 3)), [0, 1, 3], crops(), white_noise(20))
    assert choice.sizes == [3] and choice.noise_kept[0] > 0.95 and list(choice.dropped) == [0, 1]


@pytest.mark.parametrize(
    ('sizes', 'expected'),
    [([9], [9]), ([0, 9], [0, 9]), ([0, 5, 9], [0, 5, 9]), ([0, 1, 5, 9], [0, 5, 9]), ([0, 1, 3, 5, 7, 9], [0, 5, 9])],
    ids=str,
)
def test_spread_sizes_are_the_smallest_the_middle_and_the_largest(sizes, expected):
    choice = spread_sizes(BlindSizeChoice(sizes, {1: 0.8}, [size / 100 for size in sizes]))
    assert choice.sizes == expected and choice.noise_kept == [size / 100 for size in expected]
    assert choice.dropped == {1: 0.8}


def test_blind_size_choice_describe_names_sizes_and_what_was_dropped():
    assert BlindSizeChoice([3, (5, 7)], {0: 0.93, 1: 0.6}).describe() == (
        'Blind sizes of the teacher: 3, 5x7; dropped, since the prediction keeps too much of the noise: '
        '0 (93%), 1 (60%)'
    )
    assert BlindSizeChoice([9]).describe() == 'Blind sizes of the teacher: 9'


def test_blind_size_choice_to_dict_is_of_jsons_types():
    choice, risks = choose_sizes(fake_predict((0,)), [0, 1, (1, 3)], crops(), white_noise(20))
    content = BlindSizeChoice(choice.sizes, choice.dropped, choice.noise_kept, risks.weights()).to_dict()
    assert json.loads(json.dumps(content)) == content
    assert content['sizes'] == ['1', '1x3'] and list(content['dropped']) == ['0']


@pytest.mark.parametrize(('size', 'text', 'other'), [(0, '0', 0), (9, '9', 9), ((5, 9), '5x9', (9, 5))])
def test_blind_size_text_and_turned(size, text, other):
    assert size_text(size) == text and turned(size) == other


# ---- correlation of the noise ----


def correlated(height: int, width: int):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 12, (256 + height, 256 + width, 3))
    noise = np.lib.stride_tricks.sliding_window_view(noise, (height, width), axis=(0, 1)).mean(axis=(-1, -2))
    return estimate_noise([0.5 + noise[:256, :256] / 255 * np.sqrt(height * width)])


@pytest.mark.parametrize(('box', 'sides'), [((1, 1), (1, 1)), ((1, 3), (1, 5)), ((3, 1), (5, 1)), ((2, 3), (3, 5))])
def test_correlation_sides_are_height_and_width_of_the_correlation(box, sides):
    assert correlated(*box).correlation_sides() == sides


def test_correlation_sides_largest_is_correlation_length():
    noise = correlated(2, 4)
    assert max(noise.correlation_sides()) == noise.correlation_length() == 7


def test_correlation_sides_without_any_correlation_are_1():
    noise = white_noise(20)
    noise.correlation[MAX_LAG, MAX_LAG] = 0  # of images without noise
    assert noise.correlation_sides() == (1, 1) == (noise.correlation_length(),) * 2


# ---- options ----


def parse(value, schema=BlindSizesTrainOptions, **keys):
    return schema.parse({'stages': {}, 'teacher_blind_sizes': value, **keys}, 'train')


def test_teacher_blind_sizes_survive_a_dump():
    train = parse([0, 3, [5, 7]])
    assert train.teacher_blind_sizes == [0, 3, (5, 7)]
    assert BlindSizesTrainOptions.model_validate(train.model_dump()) == train


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ([2], 'expected 0, an odd number up to 127, or two of them .*got 2'),
        ([], r'expected auto or a list of blind sizes, got \[\]'),
        ([3, 3], 'a size is there twice'),
        ([3, [3, 3]], 'a size is there twice'),
        ([9, 1], r'expected the sizes from the smallest to the largest, got \[9, 1\]'),
        ([[5, 7], 3], 'expected the sizes from the smallest'),
        ('some', "expected auto or a list of blind sizes, got 'some'"),
        (3, 'expected auto or a list of blind sizes, got 3'),
        ([None], 'expected 0, an odd number'),
        (['3'], 'expected 0, an odd number'),
    ],
    ids=str,
)
def test_teacher_blind_sizes_out_of_range_raise_user_error(value, message):
    with pytest.raises(UserError, match=f'^train.teacher_blind_sizes: {message}'):
        parse(value)


def test_teacher_draw_one_with_other_weights_than_equal_raises_user_error():
    for weights in ('risk', 'texture'):
        with pytest.raises(UserError, match=f'one needs teacher_weights: equal, got {weights}. Set teacher_draw: all'):
            parse('auto', teacher_draw='one', teacher_weights=weights)
    assert parse('auto', teacher_draw='one', teacher_weights='equal').teacher_draw == 'one'


def test_atbsn_options_by_default_are_the_papers():
    train = ATBSNTrainOptions.parse({'stages': {}}, 'train')
    assert train.teacher_blind_sizes == [0, 1, 3, 5, 7, 9, 11]
    assert (train.teacher_weights, train.teacher_draw, train.recharge) == ('equal', 'all', False)
