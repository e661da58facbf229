"""Windows over whole images, and the mean over symmetries."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from basicsr_sassid.archs.bnn_arch import BNN
from basicsr_sassid.ops.dihedral import self_ensemble
from basicsr_sassid.ops.sliding_window import sliding_window_cost, sliding_window_predict, window_starts


@pytest.mark.parametrize(('side', 'window'), [(1, 32), (31, 32), (32, 32), (33, 32), (64, 32), (100, 32), (513, 128)])
def test_window_starts_cover_the_line_and_overlap_by_half(side, window):
    starts = window_starts(side, window)
    assert starts[0] == 0 and starts[-1] == max(side - window, 0)
    assert all(0 < after - before <= window // 2 + 1 for before, after in pairwise(starts))


@pytest.mark.parametrize('ensemble', [False, True])
def test_sliding_window_predict_is_the_weighted_mean_of_its_windows(ensemble):
    """Reference: a window at a time, turned as its place says, weighed by the distance to its nearer edges."""
    net = BNN(dim=4, blind_size=3).eval()
    image = torch.rand(3, 70, 101) * 255
    answer = sliding_window_predict(net, image, window=32, ensemble=ensemble, batch_size=5)
    total, weights = torch.zeros_like(image), torch.zeros(70, 101)
    ramp = torch.tensor([*range(1, 17), *range(16, 0, -1)]).float()
    with torch.no_grad():
        for row, top in enumerate(window_starts(70, 32)):
            for column, left in enumerate(window_starts(101, 32)):
                window = image[None, :, top : top + 32, left : left + 32]
                answers = []
                for number in range(8) if ensemble else [(3 * row + column) % 8]:
                    turns, flip = divmod(number, 2)
                    y = net(torch.rot90(window.flip(3) if flip else window, turns, (2, 3)))
                    y = torch.rot90(y, 4 - turns, (2, 3))
                    answers.append(y.flip(3) if flip else y)
                weight = ramp[:, None] * ramp
                total[:, top : top + 32, left : left + 32] += torch.stack(answers).mean(0)[0] * weight
                weights[top : top + 32, left : left + 32] += weight
    torch.testing.assert_close(answer, total / weights, rtol=0, atol=1e-2)


@pytest.mark.parametrize('size', [(90, 75), (20, 75), (20, 25)])
def test_sliding_window_predict_without_context_equals_the_network(size):
    net = nn.Conv2d(3, 3, 1).requires_grad_(False)
    image = torch.rand(3, *size)
    torch.testing.assert_close(sliding_window_predict(net, image, window=32), net(image[None])[0])
    height, width = (min(side, 32) for side in size)
    assert (
        sliding_window_cost(size, 32)
        == len(window_starts(size[0], 32)) * len(window_starts(size[1], 32)) * height * width
    )


def test_sliding_window_predict_discounts_window_borders():
    """A blur that pads with zeros, as the networks do: live, a patch's corner falls to a third; asked once, not so."""
    image = torch.full((3, 96, 96), 100.0)
    net = nn.AvgPool2d(9, stride=1, padding=4)
    live = net(image[None, :, 16:48, 16:48])[0]
    assert live[:, 0, 0].max() < 35
    assert sliding_window_predict(net, image, window=32)[:, 16:80, 16:80].min() > 90


def test_self_ensemble_is_the_mean_over_eight_symmetries():
    x = torch.rand(2, 3, 6, 9)
    net = nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
    plain = []
    for view in (x, x.flip(3), x.flip(2), x.flip(2, 3)):
        plain.append(net(view))
    plain = [y.flip(dims) if dims else y for y, dims in zip(plain, ((), (3,), (2,), (2, 3)))]
    turned = x.transpose(2, 3)
    for dims in ((), (3,), (2,), (2, 3)):
        plain.append(net(turned.flip(dims)).flip(dims).transpose(2, 3))
    torch.testing.assert_close(self_ensemble(net, x), torch.stack(plain).mean(0))
    symmetric = nn.AvgPool2d(3, 1, 1)
    torch.testing.assert_close(self_ensemble(symmetric, x), symmetric(x))
