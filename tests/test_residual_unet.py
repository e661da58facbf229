"""DenoisingUNet with a residual connection: identity at first, state dict, average, options."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network

from basicsr_sassid.io.author_checkpoints import infer_network_options
from basicsr_sassid.training.optim import make_average
from basicsr_sassid.training.options import resolve_options
from basicsr_sassid.utils.errors import UserError

from helpers import tiny_options

RESIDUAL = {'type': 'DenoisingUNet', 'dim': 4, 'residual': True}


@pytest.mark.parametrize('size', [(1, 1), (31, 33), (64, 96), (5, 100)])
def test_residual_unet_untrained_returns_its_input(size):
    image = torch.rand(2, 3, *size) * 255
    assert torch.equal(build_network(RESIDUAL)(image), image)


def test_residual_unet_untrained_returns_its_input_in_the_unit_range():
    image = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(build_network({**RESIDUAL, 'img_range': 255})(image), image, rtol=0, atol=1e-6)


def test_residual_unet_adds_what_the_network_without_residual_predicts():
    plain, residual = build_network({'type': 'DenoisingUNet', 'dim': 4}), build_network(RESIDUAL)
    residual.load_state_dict({**plain.state_dict(), 'residual': torch.ones(())})
    image = torch.rand(1, 3, 43, 70) * 255
    torch.testing.assert_close(residual(image), image + plain(image))


def test_residual_unet_trains_all_parameters_after_its_first_step():
    """The last layer starts at zero, which lets no gradient through to the others at first."""
    net = build_network(RESIDUAL)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        (net(torch.rand(1, 3, 32, 32) * 255) - 100).abs().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().max() > 0 for parameter in net.parameters())
    assert net(torch.rand(1, 3, 32, 32) * 255).isfinite().all()


def test_residual_unet_in_half_precision_keeps_the_input():
    """The sum is in float32: bfloat16 has steps of one grey level above 128."""
    image = torch.rand(1, 3, 32, 32) * 255
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(build_network(RESIDUAL)(image), image)


def test_residual_unet_of_other_channels_out_than_in_raises_value_error():
    with pytest.raises(ValueError, match='residual: expected as many channels in as out, got 3 and 1'):
        build_network({**RESIDUAL, 'num_out_ch': 1})


@pytest.mark.parametrize('residual', ['yes', 1, None])
def test_residual_unet_of_another_type_raises_value_error(residual):
    with pytest.raises(ValueError, match=f'residual: expected true or false, got {residual!r}'):
        build_network({**RESIDUAL, 'residual': residual})


def test_residual_unet_state_dict_states_it():
    state = build_network(RESIDUAL).state_dict()
    assert infer_network_options(state) == {'num_in_ch': 3, 'num_out_ch': 3, **RESIDUAL}
    del state['residual']
    assert 'residual' not in infer_network_options(state)


@pytest.mark.parametrize('residual', [True, False])
def test_residual_unet_weights_of_the_other_kind_are_refused(residual):
    net, other = (build_network({**RESIDUAL, 'residual': flag}) for flag in (residual, not residual))
    with pytest.raises(RuntimeError, match='residual'):
        net.load_state_dict(other.state_dict())


def test_residual_unet_average_keeps_the_buffer():
    net = build_network(RESIDUAL)
    average = make_average(net, 0.9)
    for _ in range(2):  # the first one copies
        average.update_parameters(net)
        with torch.no_grad():
            net.head.bias += 1
    assert average.module.residual == 1 and 0 < average.module.head.bias[0] < 1
    net.load_state_dict(average.module.state_dict())


@pytest.mark.parametrize('value', ['abc', 1, None, []])
def test_residual_outside_of_its_range_is_one_sentence(noisy_folder, tmp_path, value):
    opt = tiny_options(noisy_folder)
    opt['network_g']['residual'] = value
    with pytest.raises(UserError, match='^network_g: .*residual: expected true or false, got [^\\n]*$'):
        resolve_options(opt, tmp_path, True)
