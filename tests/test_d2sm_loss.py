"""D2SM: the equations by hand, each variant, queues, patches, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from basicsr_sassid.losses.d2sm_loss import D2SMLoss, extract_patches
from basicsr_sassid.utils.errors import UserError

from d2sm_scenes import CLEAN, NETWORK, RESTORED, expected, jensen_shannon, kl, on_vectors, vectors, with_features

# ---- the equations ----


def test_d2sm_of_three_vectors_is_as_by_hand():
    """Cosines of restored pairs 12, 13, 23: 1/sqrt(2), 0, 1/sqrt(10); of clean ones: 0, 0, 1/sqrt(2)."""
    k, m = (1 / math.sqrt(2) + 1) / 2, (1 / math.sqrt(10) + 1) / 2
    rows = [((k, 0.5), (0.5, 0.5)), ((k, m), (0.5, k)), ((0.5, m), (0.5, k))]
    by_hand = sum(q[j] / sum(q) * math.log((q[j] / sum(q)) / (p[j] / sum(p))) for q, p in rows for j in range(2))
    assert float(on_vectors()(RESTORED, CLEAN)[0]) == pytest.approx(by_hand, rel=1e-4)
    assert by_hand == pytest.approx(expected(), rel=1e-6)


@pytest.mark.parametrize(
    ('options', 'value'),
    [
        ({'direction': 'kl'}, expected()),
        ({'direction': 'inverse_kl'}, expected(lambda q, p: kl(p, q))),
        ({'direction': 'jensen_shannon'}, expected(jensen_shannon)),
        ({'exclude_self': False}, expected(exclude_self=False)),
        ({'kernel': 'gaussian'}, expected(kind='gaussian')),
        ({'temperature': 0.5}, expected(power=2)),
        ({'kernel': 'gaussian', 'temperature': 0.25}, expected(kind='gaussian', power=4)),
        ({'loss_weight': 7}, 7 * expected()),
        ({'reduction': 'rows'}, expected() / 3),
        ({'reduction': 'mean'}, expected() / 6),
        ({'reduction': 'mean', 'exclude_self': False}, expected(exclude_self=False) / 9),
    ],
)
def test_d2sm_variant_is_its_formula(options, value):
    assert float(on_vectors(**options)(RESTORED, CLEAN)[0]) == pytest.approx(value, rel=1e-4)


def test_d2sm_variants_differ_from_each_other():
    variants = [{}, {'direction': 'inverse_kl'}, {'direction': 'jensen_shannon'}, {'kernel': 'gaussian'}]
    values = [float(on_vectors(**variant)(RESTORED, CLEAN)[0]) for variant in variants]
    assert len({round(value, 6) for value in values}) == 4


def test_d2sm_length_of_a_feature_does_not_count():
    first = on_vectors()(RESTORED, CLEAN)[0]
    torch.testing.assert_close(on_vectors()(RESTORED * 5, CLEAN * 0.3)[0], first)


@pytest.mark.parametrize('direction', ['kl', 'inverse_kl', 'jensen_shannon'])
def test_d2sm_of_identical_images_is_zero(direction):
    loss, images = with_features(direction=direction), torch.rand(4, 3, 48, 48)
    for _ in range(3):
        assert float(loss(images, images.clone())[0]) == pytest.approx(0, abs=1e-6)


def test_d2sm_of_other_images_is_above_zero():
    assert float(with_features()(torch.rand(4, 3, 48, 48), torch.rand(4, 3, 48, 48))[0]) > 1e-6


def test_d2sm_of_a_single_sample_is_zero_with_a_gradient():
    restored = torch.rand(1, 3, 48, 48, requires_grad=True)
    value = with_features()(restored, torch.rand(1, 3, 48, 48))[0]
    value.backward()
    assert float(value.detach()) == 0
    assert torch.isfinite(restored.grad).all()


def test_d2sm_of_opposite_vectors_is_finite():
    restored, clean = vectors((1, 0, 0), (-1, 0, 0), (0, 1, 0)).requires_grad_(), CLEAN
    value = on_vectors()(restored, clean)[0]
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(restored.grad).all()


# ---- gradient ----


def test_d2sm_gradient_is_on_the_restored_side_alone():
    restored, clean = (torch.rand(4, 3, 48, 48, requires_grad=True) for _ in range(2))
    with_features()(restored, clean)[0].backward()
    assert restored.grad.abs().sum() > 0
    assert clean.grad is None


def test_d2sm_gradient_is_that_of_finite_differences():
    loss = on_vectors()
    restored = RESTORED.double().requires_grad_()
    loss._normalised_features = lambda images: nn.functional.normalize(images.flatten(1))  # float64
    assert torch.autograd.gradcheck(lambda x: _value_without_history(loss, x), restored)


def _value_without_history(loss: D2SMLoss, restored: Tensor) -> Tensor:
    loss.restored_queue, loss.clean_queue = torch.empty(0), torch.empty(0)
    return loss(restored, CLEAN.double())[0]


def test_d2sm_beside_l1_changes_the_gradient_of_l1():
    clean = torch.rand(4, 3, 48, 48)
    restored = (clean + 0.1 * torch.randn_like(clean)).requires_grad_()
    l1 = nn.functional.l1_loss(restored, clean)
    (alone,) = torch.autograd.grad(l1, restored, retain_graph=True)
    (both,) = torch.autograd.grad(l1 + with_features()(restored, clean)[0], restored)
    assert (both - alone).abs().mean() > 1e-3 * alone.abs().mean()


def test_d2sm_has_nothing_to_optimise_and_nothing_to_save():
    loss = with_features()
    loss(torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48))
    assert not [parameter for parameter in loss.parameters() if parameter.requires_grad]
    assert loss.state_dict() == {}


def test_d2sm_descending_its_gradient_lowers_it():
    """Noisy crops approach the statistics of clean ones."""
    loss, clean = with_features(temperature=0.1, queue_size=8), torch.rand(4, 3, 8, 8)
    clean = nn.functional.interpolate(clean, size=(48, 48), mode='bicubic')
    restored = (clean + 0.2 * torch.randn_like(clean)).requires_grad_()
    optimizer, values = torch.optim.Adam([restored], 1e-2), []
    for _ in range(25):
        optimizer.zero_grad()
        value = loss(restored, clean)[0]
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.5 * values[1]


# ---- patches ----


@pytest.mark.parametrize(
    ('size', 'side', 'stride', 'shape'),
    [
        ((512, 512), 224, 56, (2 * 36, 3, 224, 224)),  # the published setting
        ((224, 224), 224, 56, (2, 3, 224, 224)),
        ((100, 300), 224, 56, (2 * 2, 3, 100, 224)),
        ((48, 40), 224, 56, (2, 3, 48, 40)),
        ((48, 40), None, 56, (2, 3, 48, 40)),
    ],
)
def test_extract_patches_gives_the_grid(size, side, stride, shape):
    assert extract_patches(torch.zeros(2, 3, *size), side, stride).shape == shape


def test_extract_patches_are_those_of_slicing():
    images = torch.rand(2, 3, 20, 23)
    patches = [
        images[n, :, top : top + 8, left : left + 8] for n in range(2) for top in (0, 6, 12) for left in (0, 6, 12)
    ]
    torch.testing.assert_close(extract_patches(images, 8, 6), torch.stack(patches), rtol=0, atol=0)


def test_d2sm_patches_are_the_samples():
    loss = with_features(patch_size=32, stride=16)
    loss(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64))
    assert loss.filled == 2 * 9


# ---- ranges and types ----


def test_d2sm_img_range_255_is_that_of_the_unit_range():
    restored, clean = torch.rand(2, 4, 3, 48, 48)
    in_grey_levels = with_features(img_range=255, temperature=0.01)(restored * 255, clean * 255)[0]
    in_unit_range = with_features(temperature=0.01)(restored, clean)[0]
    torch.testing.assert_close(in_grey_levels, in_unit_range, rtol=1e-2, atol=0)


def test_d2sm_under_autocast_is_float32_and_equal():
    restored, clean = torch.rand(2, 4, 3, 48, 48)
    expected_value = with_features()(restored, clean)[0]
    with torch.autocast('cpu', torch.bfloat16):
        value = with_features()(restored, clean)[0]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected_value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'temprature': 1}, r"D2SMLoss: unknown key 'temprature'. Did you mean 'temperature'\?"),
        ({'temperature': 0}, r'D2SMLoss.temperature: expected .*0.0001, got 0'),
        ({'queue_size': 2}, r'D2SMLoss.queue_size: expected .* 3, got 2'),
        ({'patch_size': 0}, r'D2SMLoss.patch_size: .* got 0'),
        ({'stride': 1.5}, r'D2SMLoss.stride: .* got 1.5'),
        ({'direction': 'forward'}, r"D2SMLoss.direction: .*kl.* got 'forward'"),
        ({'reduction': 'batch'}, r"D2SMLoss.reduction: .* got 'batch'"),
        ({'kernel': 'linear'}, r"D2SMLoss.kernel: .* got 'linear'"),
        ({'loss_weight': -1}, r'D2SMLoss.loss_weight: .* got -1'),
        ({'exclude_self': 1}, r'D2SMLoss.exclude_self: .* got 1'),
    ],
)
def test_d2sm_bad_option_raises_user_error(options, message):
    with pytest.raises(UserError, match=message):
        D2SMLoss(**NETWORK, **options)


def test_d2sm_images_of_different_sizes_raise_value_error():
    with pytest.raises(ValueError, match=r'expected images of one size, got \(2, 3, 64, 64\) and \(2, 3, 64, 60\)'):
        with_features()(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 60))
