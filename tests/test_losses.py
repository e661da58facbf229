"""Losses against the reference formulation and values computed by hand."""

from __future__ import annotations

import pytest
import torch
from basicsr.losses import build_loss

from basicsr_sassid.losses.selective_loss import local_std, texture_map
from basicsr_sassid.losses.weighted_targets_loss import recharge

import reference

FLAT_ALPHA = torch.sigmoid(torch.tensor(-1.0)).item()  # of a constant area


@pytest.mark.parametrize('window', [1, 3, 7, 15])
def test_local_std_is_the_reference(window):
    x = torch.rand(2, 3, 21, 34) * 255
    torch.testing.assert_close(local_std(x, window), reference.local_std(x.double(), window).float(), rtol=0, atol=1e-4)


def test_local_std_of_weak_noise_on_bright_ground_is_exact():
    x = 220 + 0.1 * torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert (local_std(x.float()) - reference.local_std(x)).abs().max() < 1e-4  # E[x^2] - E[x]^2 in float32: 0.16


def test_local_std_window_larger_than_the_image_raises_value_error():
    with pytest.raises(ValueError, match=r'window 7: expected an image of more than 3 pixels a side, got \(3, 20\)'):
        local_std(torch.rand(1, 3, 3, 20))


@pytest.mark.parametrize('window', [0, 4])
def test_local_std_window_that_is_not_odd_raises_value_error(window):
    with pytest.raises(ValueError, match='window: expected an odd number >= 1'):
        local_std(torch.rand(1, 3, 20, 20), window)


@pytest.mark.parametrize(
    ('std', 'expected'), [(0.0, 0.2689), (1.0, 0.5), (3.0, 0.5), (5.0, 0.5), (6.0, 0.7311), (10.0, 0.9933)]
)
def test_texture_map_has_the_papers_values(std, expected):
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)  # standard deviation 1, nearly so in 7x7
    x = (128 + checks * std).expand(1, 3, -1, -1)
    assert texture_map(x)[0, 0, 8, 8] == pytest.approx(expected, abs=2e-3)


def test_texture_map_is_the_reference():
    x = torch.rand(2, 3, 40, 40) * torch.linspace(0, 40, 40)
    expected = reference.alpha(reference.local_std(x, 5), 2.0, 3.0)
    torch.testing.assert_close(texture_map(x, window=5, lower=2.0, upper=3.0), expected, rtol=0, atol=1e-5)


def test_texture_map_has_no_gradient():
    assert not texture_map(torch.rand(1, 3, 20, 20).requires_grad_()).requires_grad


def test_texture_map_unit_range_scales_to_grey_levels():
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(texture_map(x, img_range=1.0), texture_map(x * 255))


def test_texture_map_unit_range_taken_for_grey_levels_is_flat():
    assert texture_map(torch.rand(1, 3, 32, 32)).max() < 0.4


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        ({}, 10),
        ({'region': 'flat'}, 10 * (1 - FLAT_ALPHA)),
        ({'region': 'texture', 'loss_weight': 2.0}, 20 * FLAT_ALPHA),
    ],
)
def test_selective_l1_loss_of_constant_images_is_as_by_hand(options, expected):
    loss = build_loss({'type': 'SelectiveL1Loss', **options})
    assert loss(torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 10.0)).item() == pytest.approx(expected)


def test_two_teacher_l1_loss_of_constant_images_is_as_by_hand():
    prediction, flat, textured = (torch.full((1, 3, 16, 16), value) for value in (0.0, 10.0, 30.0))
    loss = build_loss({'type': 'TwoTeacherL1Loss'})(prediction, flat, textured)
    assert loss.item() == pytest.approx(10 * (1 - FLAT_ALPHA) + 30 * FLAT_ALPHA)


def test_selective_l1_loss_unknown_region_raises_value_error():
    with pytest.raises(ValueError, match='region: expected one of flat, texture, all'):
        build_loss({'type': 'SelectiveL1Loss', 'region': 'smooth'})


def test_selective_l1_loss_in_a_stock_model_trains():
    from basicsr.models import build_model

    opt = {
        'model_type': 'SRModel',
        'num_gpu': 0,
        'is_train': True,
        'dist': False,
        'rank': 0,
        'path': {},
        'network_g': {'type': 'DenoisingUNet', 'dim': 4, 'img_range': 255},
        'train': {
            'optim_g': {'type': 'Adam', 'lr': 1e-3},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [9]},
            'pixel_opt': {'type': 'SelectiveL1Loss', 'region': 'texture', 'img_range': 1},
        },
    }
    model = build_model(opt)
    model.feed_data({'lq': torch.rand(1, 3, 32, 32), 'gt': torch.rand(1, 3, 32, 32)})
    losses = []
    for iteration in range(20):
        model.optimize_parameters(iteration)
        losses.append(model.get_current_log()['l_pix'])
    assert losses[-1] < 0.9 * losses[0]


# ---- several targets ----


def several_targets(count: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction (2, 3, 9, 11), targets (2, K, 3, 9, 11) and weights (2, K, 1, 9, 11)."""
    return torch.rand(2, 3, 9, 11) * 255, torch.rand(2, count, 3, 9, 11) * 255, torch.rand(2, count, 1, 9, 11)


@pytest.mark.parametrize('weighted', [False, True])
def test_weighted_targets_l1_loss_is_the_mean_of_the_weighted_l1_losses(weighted):
    prediction, targets, weights = several_targets()
    factors = weights if weighted else torch.ones_like(weights)
    expected = sum((factors[:, k] * (prediction - targets[:, k]).abs()).mean() for k in range(4)) / 4
    loss = build_loss({'type': 'WeightedTargetsL1Loss'})(prediction, targets, weights if weighted else None)
    torch.testing.assert_close(loss, expected)


def test_weighted_targets_l1_loss_of_weight_k_is_at_bsns_sum():
    prediction, targets, _ = several_targets()
    expected = sum(torch.nn.functional.l1_loss(prediction, targets[:, k]) for k in range(4))
    torch.testing.assert_close(
        build_loss({'type': 'WeightedTargetsL1Loss', 'loss_weight': 4})(prediction, targets), expected
    )


def test_weighted_targets_l1_loss_of_one_target_is_l1_loss():
    prediction, targets, _ = several_targets(1)
    expected = build_loss({'type': 'L1Loss'})(prediction, targets[:, 0])
    torch.testing.assert_close(build_loss({'type': 'WeightedTargetsL1Loss'})(prediction, targets), expected)


def test_weighted_targets_l1_loss_is_least_at_the_weighted_median():
    targets = torch.tensor([0.0, 10.0, 50.0]).view(1, 3, 1, 1, 1)
    weights = torch.tensor([1.0, 3.0, 1.0]).view(1, 3, 1, 1, 1)
    loss = build_loss({'type': 'WeightedTargetsL1Loss'})
    values = [loss(torch.full((1, 1, 1, 1), float(value)), targets, weights).item() for value in range(51)]
    assert values.index(min(values)) == 10


def test_recharge_replaces_one_target_of_each_pixel_in_all_channels():
    noisy, targets, _ = several_targets()
    recharged = recharge(targets, noisy, torch.Generator().manual_seed(0))
    replaced = recharged == noisy[:, None]
    assert torch.equal(replaced.all(dim=2), replaced.any(dim=2))
    assert (replaced.all(dim=2).sum(dim=1) == 1).all()
    assert torch.equal(recharged[~replaced], targets[~replaced])


def test_recharge_draws_every_target_alike():
    noisy, targets = torch.ones(1, 1, 200, 200), torch.zeros(1, 4, 1, 200, 200)
    shares = recharge(targets, noisy, torch.Generator().manual_seed(0)).mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0, atol=0.01)  # 40,000 draws: 0.002


def test_recharge_draws_are_the_generators():
    noisy, targets, _ = several_targets()
    first, again, other = (recharge(targets, noisy, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.equal(again) and not first.equal(other)


@pytest.mark.parametrize('count', [1, 2, 5])
def test_recharge_of_one_target_of_several_replaces_its_share(count):
    noisy, targets = torch.ones(1, 3, 200, 200), torch.zeros(1, 1, 3, 200, 200)
    recharged = recharge(targets, noisy, torch.Generator().manual_seed(0), count)
    assert recharged.mean().item() == pytest.approx(1 / count, abs=0.01)
