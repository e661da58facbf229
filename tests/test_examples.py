"""The examples of the docstrings run as they stand."""
from __future__ import annotations

import doctest
import importlib

import pytest
import torch
from basicsr.archs import build_network


@pytest.mark.parametrize('module', ['noise.estimate', 'noise.spectral', 'inference.denoiser', 'clean.session'])
def test_examples(module, tmp_path, monkeypatch):
    weights = tmp_path / 'net_g_latest.pth'
    torch.save({'params': build_network({'type': 'DenoisingUNet', 'dim': 4}).state_dict()}, weights)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    found = doctest.testmod(importlib.import_module(f'basicsr_sassid.{module}'), optionflags=doctest.ELLIPSIS,
                            extraglobs={'weights': weights})
    assert found.attempted >= 2 and found.failed == 0
