from __future__ import annotations

import pytest
import torch
from basicsr.losses import build_loss

from basicsr_sassid.losses.selective_loss import local_std, texture_map

import reference


@pytest.mark.parametrize('window', [1, 3, 7, 15])
def test_local_std_is_the_plain_one(window):
    x = torch.rand(2, 3, 21, 34) * 255
    torch.testing.assert_close(local_std(x, window), reference.local_std(x.double(), window).float(), rtol=0, atol=1e-4)


def test_local_std_is_exact_where_float32_is_not():
    x = 220 + 0.1 * torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert (local_std(x.float()) - reference.local_std(x)).abs().max() < 1e-4  # E[x^2] - E[x]^2 in float32: 0.16


def test_alpha_at_the_papers_points():
    square = torch.tensor([[1., -1.], [-1., 1.]]).repeat(8, 8)  # standard deviation 1 in an even window, nearly in 7x7
    for std, expected in ((0., 0.2689), (1., 0.5), (3., 0.5), (5., 0.5), (6., 0.7311), (10., 0.9933)):
        x = (128 + square * std).expand(1, 3, -1, -1)
        exact = local_std(x)[0, 0, 8, 8]
        assert texture_map(x)[0, 0, 8, 8] == pytest.approx(reference.alpha(exact[None]).item(), abs=1e-6)
        assert texture_map(x)[0, 0, 8, 8] == pytest.approx(expected, abs=2e-3)


def test_alpha_is_the_piecewise_definition_and_carries_no_gradient():
    x = (torch.rand(2, 3, 40, 40) * torch.linspace(0, 40, 40)).requires_grad_()
    alpha = texture_map(x, window=5, lower=2., upper=3.)
    assert not alpha.requires_grad
    torch.testing.assert_close(alpha, reference.alpha(reference.local_std(x.detach(), 5), 2., 3.), rtol=0, atol=1e-5)


def test_alpha_needs_grey_levels():
    x = torch.rand(1, 3, 32, 32)
    assert texture_map(x).max() < 0.4, 'images in [0, 1] taken for grey levels pass for flat'
    torch.testing.assert_close(texture_map(x, img_range=1.), texture_map(x * 255))


def test_losses_by_hand():
    pred, flat, textured = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 10.), torch.full((1, 3, 16, 16), 30.)
    alpha = torch.sigmoid(torch.tensor(-1.)).item()  # a constant area
    build = lambda **options: build_loss(options)  # noqa: E731
    assert build(type='SelectiveL1Loss')(pred, flat).item() == pytest.approx(10)
    assert build(type='SelectiveL1Loss', region='flat')(pred, flat).item() == pytest.approx(10 * (1 - alpha))
    assert build(type='SelectiveL1Loss', region='texture', loss_weight=2.)(pred, flat).item() == pytest.approx(
        20 * alpha)
    assert build(type='TwoTeacherL1Loss')(pred, flat, textured).item() == pytest.approx(
        10 * (1 - alpha) + 30 * alpha)
    with pytest.raises(ValueError, match='region: expected one of flat, texture, all'):
        build(type='SelectiveL1Loss', region='smooth')


def test_image_smaller_than_the_window():
    with pytest.raises(ValueError, match=r'window 7: expected an image of more than 3 pixels a side, got \(3, 20\)'):
        local_std(torch.rand(1, 3, 3, 20))


def test_a_stock_model_takes_them_in_its_yml(photographs, tmp_path):
    from basicsr.models import build_model
    opt = {'model_type': 'SRModel', 'num_gpu': 0, 'is_train': True, 'dist': False, 'rank': 0, 'path': {},
           'network_g': {'type': 'DenoisingUNet', 'dim': 4, 'img_range': 255},
           'train': {'optim_g': {'type': 'Adam', 'lr': 1e-3}, 'scheduler': {'type': 'MultiStepLR', 'milestones': [9]},
                     'pixel_opt': {'type': 'SelectiveL1Loss', 'region': 'texture', 'img_range': 1}}}
    model = build_model(opt)
    model.feed_data({'lq': torch.rand(1, 3, 32, 32), 'gt': torch.rand(1, 3, 32, 32)})
    losses = []
    for iteration in range(20):
        model.optimize_parameters(iteration)
        losses.append(model.get_current_log()['l_pix'])
    assert losses[-1] < 0.9 * losses[0]
