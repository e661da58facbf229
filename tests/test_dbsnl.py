"""DBSNl: published size, blindness, receptive field."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network


def small_dbsnl(**options):
    return build_network({'type': 'DBSNl', 'dim': 8, 'num_module': 3, **options})


def test_dbsnl_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in build_network({'type': 'DBSNl'}).parameters()) == 3_656_131


@pytest.mark.parametrize(
    'name', ['head.0.weight', 'branch1.body.0.weight', 'branch2.body.6.body.2.bias', 'tail.6.weight']
)
def test_dbsnl_state_dict_has_the_published_name(name):
    assert name in build_network({'type': 'DBSNl'}).state_dict()


def test_dbsnl_state_dict_has_no_masks():
    assert not any('mask' in name for name in small_dbsnl().state_dict())


def test_dbsnl_has_the_published_multiply_adds():
    from torch.utils.flop_counter import FlopCounterMode

    net, image = build_network({'type': 'DBSNl'}), torch.rand(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    assert counter.get_total_flops() / 2 / 32**2 == 3_650_112


@pytest.mark.parametrize(('y', 'x'), [(0, 0), (0, 36), (39, 0), (39, 36), (20, 18), (1, 30), (33, 2)])
def test_dbsnl_prediction_does_not_depend_on_its_own_pixel(y, x):
    net, image = small_dbsnl().double(), torch.rand(1, 3, 40, 37, dtype=torch.float64)
    changed = image.clone()
    changed[..., y, x] = 1000  # not NaN: the masked tap is multiplied by zero
    with torch.no_grad():
        differs = ((net(changed) - net(image)).abs() > 1e-9).any(dim=1)[0]  # of values around 1
    assert not differs[y, x]
    assert differs.sum() > 50, 'other predictions depend on it'


class TapByTap(torch.nn.Module):
    """A masked convolution as a sum over its taps, the masked one left out: what is not read may be NaN."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        conv, side = self.conv, self.conv.kernel_size[0]
        padded = torch.nn.functional.pad(x, (side // 2,) * 4)
        total = conv.bias.view(1, -1, 1, 1).expand(len(x), -1, *x.shape[2:])
        for row in range(side):
            for column in range(side):
                if (row, column) != (side // 2, side // 2):
                    seen = padded[..., row : row + x.shape[2], column : column + x.shape[3]]
                    total = total + torch.einsum('oi,nihw->nohw', conv.weight[..., row, column], seen)
        return total


@pytest.mark.parametrize('place', [(0, 0), (0, 29), (31, 0), (31, 29), (15, 14), (1, 20)])
def test_dbsnl_nan_does_not_reach_its_own_prediction(place):
    net, image = small_dbsnl().double(), torch.rand(1, 3, 32, 30, dtype=torch.float64)
    with torch.no_grad():
        expected = net(image)
        for branch in (net.branch1, net.branch2):
            branch.body[0] = TapByTap(branch.body[0])
        # no ReLU in place on a padded view, and max(0, NaN) is NaN: nothing hides it
        assert torch.allclose(net(image), expected, rtol=0, atol=1e-12), 'the same network'
        image[..., place[0], place[1]] = float('nan')
        lost = net(image).isnan().any(dim=1)[0]
    assert not lost[place] and lost.sum() > 50


@pytest.fixture(scope='module')
def gradient() -> torch.Tensor:
    """(71, 71): gradient of the central prediction of a network with positive weights."""
    net = build_network({'type': 'DBSNl', 'dim': 4}).double()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.05)
    image = torch.rand(1, 3, 71, 71, dtype=torch.float64, requires_grad=True)
    net(image)[0, 0, 35, 35].backward()
    assert image.grad is not None
    return image.grad[0].abs().sum(0)


def test_dbsnl_receptive_field_is_59_pixels_wide(gradient):
    places = gradient.nonzero() - 35
    assert places.abs().max() == 29 and len(places) == 3240


def test_dbsnl_has_no_gradient_at_its_own_pixel(gradient):
    assert gradient[35, 35] == 0


def test_dbsnl_forward_leaves_the_weights_alone():
    net = small_dbsnl()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net(torch.rand(1, 3, 20, 20))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_dbsnl_last_layer_is_float32_under_autocast():
    net, image = small_dbsnl(), torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert net(image).dtype == torch.float32
