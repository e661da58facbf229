"""Parameters, multiply-adds and memory of a method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from basicsr_sassid import Denoiser
from basicsr_sassid.evaluation.context import Method
from basicsr_sassid.evaluation.cost import ResourceMeter, machine, network_cost
from basicsr_sassid.io.checkpoint import build_network


@pytest.mark.parametrize(
    ('block', 'params', 'gmacs'),
    [
        ({'type': 'DenoisingUNet', 'num_in_ch': 3, 'num_out_ch': 3, 'dim': 48}, 1_083_747, 17.46),
        ({'type': 'LAN', 'num_in_ch': 3, 'num_out_ch': 3, 'receptive_size': 3}, 94_939, 5.93),
    ],
)
def test_network_cost_is_the_published_one(block, params, gmacs, tmp_path):
    torch.save({'params': build_network(block, 'x').state_dict(), 'network': block}, tmp_path / 'net.pth')
    denoise = Denoiser(tmp_path / 'net.pth', 'cpu', precision='fp32')
    cost = network_cost(Method(denoise, denoise.net))
    assert cost['params'] == params and cost['macs'] / 1e9 == pytest.approx(gmacs, abs=0.01)


def test_network_cost_without_a_network_is_empty():
    assert network_cost(Method(lambda image: image)) == {}


def test_resource_meter_peak_is_that_of_the_largest_call():
    meter = ResourceMeter('cpu')
    with meter.measure():
        np.ones(50 * 2**20, np.uint8)
    if meter.bytes is None:
        pytest.skip('this system does not state the peak of a process')
    assert 45 * 2**20 < meter.bytes < 80 * 2**20
    first = meter.bytes
    with meter.measure():
        np.ones(2**20, np.uint8)
    assert meter.bytes == first and meter.seconds > 0


def test_machine_names_versions_and_hardware():
    assert {'versions', 'system', 'cpu', 'cores', 'threads', 'gpu'} == machine('cpu').keys()
