"""What networks state about themselves."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from basicsr_sassid.archs.capabilities import Capabilities, capabilities_of

OURS = sorted(name for name, network in ARCH_REGISTRY if network.__module__.startswith('basicsr_sassid.'))
DENOISERS = {
    **{name: {'type': name, 'dim': 8} for name in ('BNN', 'DBSNl', 'DenoisingUNet', 'LAN')},
    'FFDNet': {'type': 'FFDNet', 'num_feat': 8, 'sigma': 25},
}


def test_registry_has_the_networks_of_this_package_once():
    assert sorted([*DENOISERS, 'FeatureDiscriminator', 'LearnablePromptPair', 'SemanticFeatures']) == OURS


@pytest.mark.parametrize('attribute', ['multiple_of', 'global_context', 'half_precision'])
@pytest.mark.parametrize('name', DENOISERS)
def test_network_of_this_package_states_its_capability(name, attribute):
    assert hasattr(build_network(DENOISERS[name]), attribute)


@pytest.mark.parametrize('name', DENOISERS)
def test_half_precision_network_has_a_float32_prediction_under_autocast(name):
    net = build_network(DENOISERS[name])
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert net.half_precision and net(torch.rand(1, 3, 32, 32)).dtype == torch.float32


@pytest.mark.parametrize('channel_attention', [True, False])
def test_lan_has_global_context_with_channel_attention_alone(channel_attention):
    net = build_network({'type': 'LAN', 'dim': 8, 'channel_attention': channel_attention})
    assert capabilities_of(net).global_context == channel_attention


@pytest.mark.parametrize('layer', [nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1), nn.InstanceNorm2d(3)])
def test_foreign_network_with_a_global_layer_has_global_context(layer):
    assert capabilities_of(nn.Sequential(nn.Conv2d(3, 3, 1), layer)).global_context


def test_foreign_network_without_a_statement_has_cautious_capabilities():
    assert capabilities_of(nn.Conv2d(3, 3, 1)) == Capabilities(1, False, False)


def test_foreign_network_with_statements_is_believed():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1))
    net.multiple_of, net.global_context, net.half_precision = 8, False, True
    assert capabilities_of(net) == Capabilities(8, False, True)
