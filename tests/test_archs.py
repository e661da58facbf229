"""BNN, LAN and DenoisingUNet: published size, blindness, locality, any image size."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid.ops.padding import pad_to_multiple
from basicsr_sassid.utils.blind_size import MAX_BLIND_SIZE


@pytest.mark.parametrize(
    ('block', 'parameters'),
    [
        ({'type': 'BNN'}, 1_268_547),
        ({'type': 'BNN', 'blind_size': 5}, 1_268_547),
        ({'type': 'DenoisingUNet'}, 1_083_747),
        ({'type': 'LAN'}, 94_939),
        ({'type': 'LAN', 'receptive_size': 1}, 58_011),
        ({'type': 'LAN', 'receptive_size': 7}, 168_795),
    ],
)
def test_network_has_the_published_number_of_parameters(block, parameters):
    assert sum(parameter.numel() for parameter in build_network(block).parameters()) == parameters


# ---- blindness ----

HEIGHT, WIDTH = 43, 70  # neither square nor multiples of 32
PLACES = [
    (21, 35),
    (0, 0),
    (0, WIDTH - 1),
    (HEIGHT - 1, 0),
    (HEIGHT - 1, WIDTH - 1),
    (2, 31),
    (HEIGHT - 3, 33),
    (20, 1),
    (31, WIDTH - 2),
    (32, 32),
]


def neighbourhood(y: int, x: int, radius: int) -> tuple[slice, slice]:
    return slice(max(y - radius, 0), y + radius + 1), slice(max(x - radius, 0), x + radius + 1)


@pytest.mark.parametrize('blind_size', [1, 3, 5, 9, 11])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_bnn_nan_in_the_blind_neighbourhood_does_not_reach_the_prediction(blind_size, dtype):
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': blind_size}).to(dtype)
    image = torch.rand(1, 3, HEIGHT, WIDTH, dtype=dtype) * 255
    for y, x in PLACES:
        rows, columns = neighbourhood(y, x, blind_size // 2)
        tainted = image.clone()
        tainted[..., rows, columns] = torch.nan
        with torch.no_grad():
            assert net(tainted)[..., y, x].isfinite().all(), (y, x)


@pytest.mark.parametrize('blind_size', [1, 3, 5, 9, 11])
def test_bnn_nan_in_the_ring_around_the_blind_neighbourhood_reaches_the_prediction(blind_size):
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': blind_size})
    image = torch.rand(1, 3, HEIGHT, WIDTH) * 255
    for y, x in PLACES:
        rows, columns = neighbourhood(y, x, blind_size // 2)
        tainted = image.clone()
        tainted[(..., *neighbourhood(y, x, blind_size // 2 + 1))] = torch.nan
        tainted[..., rows, columns] = image[..., rows, columns]
        with torch.no_grad():
            assert net(tainted)[..., y, x].isnan().all(), (y, x)


def test_bnn_nearest_pixel_with_a_gradient_is_outside_the_blind_neighbourhood():
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': 7}).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    net(image)[0, :, 30, 17].sum().backward()
    places = image.grad.abs().sum(dim=(0, 1)).nonzero()
    assert (places - torch.tensor([30, 17])).abs().amax(dim=1).min() == 4


def test_bnn_with_turned_fusion_commutes_with_a_quarter_turn():
    net, turned = (build_network({'type': 'BNN', 'dim': 4}).double() for _ in range(2))
    state = net.state_dict()
    weight = state['fuse.0.weight']
    state['fuse.0.weight'] = weight.view(weight.shape[0], 4, -1).roll(1, dims=1).view_as(weight)
    turned.load_state_dict(state)
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        differences = [
            (turned(torch.rot90(image, turns, (2, 3))) - torch.rot90(net(image), turns, (2, 3))).abs().max()
            for turns in (1, 3)
        ]  # the roll is one of the two
    assert min(differences) < 1e-12


# ---- blind sizes in prediction ----

CENTRE = (21, 35)
SIZES = [1, 3, 5, 7, 9, 11, (1, 5), (9, 3), (5, 9)]  # height and width where they differ


@pytest.fixture(scope='module')
def bnn():
    torch.manual_seed(0)
    return build_network({'type': 'BNN', 'dim': 4}).requires_grad_(False)


def radii(blind_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (blind_size, blind_size) if isinstance(blind_size, int) else blind_size
    return height // 2, width // 2


def reaches_the_centre(net: torch.nn.Module, places: list[tuple[int, int]], blind_size) -> bool:
    """Whether NaN at places, relative to CENTRE, makes the prediction there NaN."""
    image = torch.full((1, 3, HEIGHT, WIDTH), 100.0)
    for dy, dx in places:
        image[..., CENTRE[0] + dy, CENTRE[1] + dx] = torch.nan
    prediction = net(image, blind_size)[(..., *CENTRE)]
    assert prediction.isnan().all() or prediction.isfinite().all()
    return bool(prediction.isnan().all())


@pytest.mark.parametrize('blind_size', SIZES, ids=str)
def test_bnn_nan_in_the_given_blind_neighbourhood_does_not_reach_the_prediction(bnn, blind_size):
    y, x = radii(blind_size)
    hidden = list(product(range(-y, y + 1), range(-x, x + 1)))
    assert not reaches_the_centre(bnn, hidden, blind_size)


@pytest.mark.parametrize('direction', [(-1, 0), (0, 1), (1, 0), (0, -1)], ids=['above', 'right', 'below', 'left'])
@pytest.mark.parametrize('blind_size', SIZES, ids=str)
def test_bnn_nan_next_to_the_given_blind_neighbourhood_reaches_the_prediction(bnn, blind_size, direction):
    nearest = tuple(sign * (radius + 1) for sign, radius in zip(direction, radii(blind_size)))
    assert reaches_the_centre(bnn, [nearest], blind_size)


def test_bnn_nan_at_the_pixel_reaches_the_prediction_with_blind_size_0(bnn):
    assert reaches_the_centre(bnn, [(0, 0)], 0)


@pytest.mark.parametrize('own', [1, 5, 9])
def test_bnn_forward_without_a_blind_size_takes_the_networks_own(bnn, own):
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': own}).requires_grad_(False)
    net.load_state_dict(bnn.state_dict())
    image = torch.rand(2, 3, HEIGHT, WIDTH) * 255
    assert net(image).equal(net(image, own)) and net(image).equal(bnn(image, own))


def test_bnn_trained_with_a_larger_blind_size_than_prediction_takes_is_applied():
    net = build_network({'type': 'BNN', 'dim': 4, 'blind_size': MAX_BLIND_SIZE + 2}).requires_grad_(False)
    assert not reaches_the_centre(net, list(product(range(-21, 22), range(-35, 35))), None)


@pytest.mark.parametrize('blind_size', [None, 0, *SIZES], ids=str)
def test_bnn_predict_of_features_is_forward(bnn, blind_size):
    image = torch.rand(1, 3, HEIGHT, WIDTH) * 255
    features = bnn.features(image)
    first, again = (bnn.predict(features, (HEIGHT, WIDTH), blind_size) for _ in range(2))
    assert first.equal(bnn(image, blind_size)) and again.equal(first)


@pytest.mark.parametrize('size', [(1, 1), (33, 40)])
def test_bnn_blind_size_beyond_the_image_predicts_one_colour_alone(bnn, size):
    prediction = bnn(torch.rand(1, 3, *size) * 255, MAX_BLIND_SIZE)
    assert torch.equal(prediction, prediction[..., :1, :1].expand_as(prediction))


@pytest.mark.parametrize(
    'blind_size', [2, -1, True, 3.0, '3', (3,), (3, 3, 3), (0, 3), (3, 4), (True, 3), [[1], 3], 129], ids=str
)
def test_bnn_blind_size_out_of_range_raises_value_error(bnn, blind_size):
    message = f'expected 0, an odd number up to 127, or two of them (height, width), got {blind_size!r}'
    with pytest.raises(ValueError, match=re.escape(message)):
        bnn(torch.zeros(1, 3, 32, 32), blind_size)


# ---- locality ----


@pytest.fixture
def image_with_nan() -> torch.Tensor:
    image = torch.rand(1, 3, 20, 20)
    image[..., 10, 10] = torch.nan
    return image


@pytest.mark.parametrize('receptive_size', [1, 3, 5])
def test_lan_without_channel_attention_is_local(image_with_nan, receptive_size):
    net = build_network(
        {'type': 'LAN', 'dim': 16, 'num_block': 2, 'receptive_size': receptive_size, 'channel_attention': False}
    )
    with torch.no_grad():
        reached = net(image_with_nan).isnan().any(dim=1)[0]
    assert reached.sum() == receptive_size**2
    assert reached[neighbourhood(10, 10, receptive_size // 2)].all()


def test_lan_with_channel_attention_depends_on_the_whole_input(image_with_nan):
    with torch.no_grad():
        assert build_network({'type': 'LAN', 'dim': 16, 'num_block': 2})(image_with_nan).isnan().any(dim=1).all()


# ---- sizes and ranges ----


@pytest.mark.parametrize(('name', 'option'), [('BNN', 'blind_size'), ('LAN', 'receptive_size')])
@pytest.mark.parametrize('size', [0, 2, 8, -3, 3.0, '3'])
def test_network_size_that_is_not_odd_raises_value_error(name, option, size):
    with pytest.raises(ValueError, match=f'{option}: expected an odd number'):
        build_network({'type': name, option: size})


@pytest.mark.parametrize('name', ['BNN', 'LAN', 'DenoisingUNet'])
@pytest.mark.parametrize('size', [(1, 1), (31, 33), (64, 96), (5, 100)])
def test_network_any_size_is_kept_and_every_parameter_has_a_gradient(name, size):
    net = build_network({'type': name, 'dim': 8})
    output = net(torch.rand(2, 3, *size) * 255)
    output.abs().mean().backward()
    assert output.shape == (2, 3, *size)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_denoising_unet_img_range_scales_input_and_output():
    grey_levels = build_network({'type': 'DenoisingUNet', 'dim': 4})
    unit_range = build_network({'type': 'DenoisingUNet', 'dim': 4, 'img_range': 255})
    unit_range.load_state_dict(grey_levels.state_dict())
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(unit_range(image), grey_levels(image * 255) / 255)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (40, 33), (32, 64)])
def test_pad_to_multiple_reflect_is_numpys(size):
    image = torch.rand(1, 2, *size)
    target = [(0, 0), (0, 0), (0, -size[0] % 32), (0, -size[1] % 32)]
    assert np.array_equal(pad_to_multiple(image, 32, 'reflect').numpy(), np.pad(image.numpy(), target, mode='reflect'))


def test_pad_to_multiple_unknown_mode_raises_value_error():
    with pytest.raises(ValueError, match="mode: expected 'reflect' or 'zeros', got 'edge'"):
        pad_to_multiple(torch.rand(1, 1, 3, 3), 4, 'edge')
